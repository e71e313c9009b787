//! `mnemon search`: the passages nearest to a text.

use anyhow::Result;
use serde_json::json;

use crate::args::{Global, Search};
use crate::input::text_or_stdin;
use crate::render::Ui;
use crate::{json, passages};

pub(crate) async fn run(args: Search, global: &Global, ui: &Ui) -> Result<()> {
    let query = text_or_stdin(&args.query)?;
    let client = super::connect(global).await?;
    let memories: Vec<&str> = args.memories.0.iter().map(String::as_str).collect();
    let hits = client.search(&memories, &query, args.k, args.exact).await?;
    if ui.json() {
        return Ok(ui.value(&json!({ "hits": json::hits(&hits) }))?);
    }
    Ok(passages::hits(ui, &hits)?)
}
