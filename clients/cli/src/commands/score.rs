//! `mnemon score`: how much a model is surprised by a text.

use anyhow::Result;

use crate::args::{Global, Score};
use crate::input::read_text;
use crate::json;
use crate::render::{Ink, Ui, count, pairs};

pub(crate) async fn run(args: Score, global: &Global, ui: &Ui) -> Result<()> {
    let text = read_text(&args.file)?;
    let context = args.context.as_deref().map(read_text).transpose()?.unwrap_or_default();
    let client = super::connect(global).await?;
    let score = client.score_after(&context, &text, super::memory_options(&args.memories.0, &args.recall)?).await?;
    if ui.json() {
        return Ok(ui.value(&json::score(&score))?);
    }
    let rows = [
        ("perplexity", ui.paint(Ink::Bold, &format!("{:.3}", score.perplexity))),
        ("bits per byte", format!("{:.4}", score.bits_per_byte)),
        ("log-probability", format!("{:.2}", score.log_probability)),
        ("tokens scored", count(score.tokens)),
        (
            "recalled",
            match score.recalled_chunks {
                0 => "nothing".to_owned(),
                1 => "1 passage".to_owned(),
                n => format!("{} passages", count(n.into())),
            },
        ),
    ];
    Ok(ui.line(pairs(ui, &rows))?)
}
