//! `mnemon search`: the passages that a text asks for.

use anyhow::Result;
use mnemon_client::v1;
use serde_json::json;

use crate::args::{Global, Search};
use crate::input::text_or_stdin;
use crate::render::Ui;
use crate::{json, passages};

pub(crate) async fn run(args: Search, global: &Global, ui: &Ui) -> Result<()> {
    let query = text_or_stdin(&args.query)?;
    let client = super::connect(global).await?;
    let by = match args.by.as_str() {
        "words" => v1::SearchBy::Words,
        "keys" => v1::SearchBy::Keys,
        "meaning" => v1::SearchBy::Meaning,
        _ => v1::SearchBy::Both,
    };
    let request = v1::SearchRequest {
        memories: args.memories.0,
        query,
        k: Some(args.k),
        exact: args.exact,
        by: by.into(),
        filter: Some(super::document_filter(&args.filter)?),
        per_document: args.per_document,
    };
    let hits = client.search_with(request).await?;
    if ui.json() {
        return Ok(ui.value(&json!({ "hits": json::hits(&hits) }))?);
    }
    Ok(passages::hits(ui, &hits)?)
}
