//! `mnemon compact`.

use anyhow::Result;
use serde_json::json;

use crate::args::{Compact, Global};
use crate::render::{Ui, bytes, plural};

pub(crate) async fn run(args: Compact, global: &Global, ui: &Ui) -> Result<()> {
    let client = super::connect(global).await?;
    let memory = args.memory.unwrap_or_default();
    let done = client.compact_memory(&memory).await?;
    if ui.json() {
        return Ok(ui.value(&json!({
            "memory": Some(&memory).filter(|name| !name.is_empty()),
            "bytes_before": done.bytes_before,
            "bytes_after": done.bytes_after,
            "files_before": done.files_before,
            "files_after": done.files_after,
        }))?);
    }
    let what = if memory.is_empty() { "all memories".to_owned() } else { format!("memory {memory}") };
    ui.note(format!(
        "compacted {what}: {} in {} before, {} in {} now",
        bytes(done.bytes_before),
        plural(done.files_before, "file"),
        bytes(done.bytes_after),
        plural(done.files_after, "file"),
    ));
    Ok(())
}
