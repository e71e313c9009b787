//! `mnemon model`: what can be done with a model without a server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use mnemon_runtime::{Extent, RecallMode, Trial};
use mnemon_server::{ProbeStage, make_profile};
use serde_json::json;

use crate::args::Model;
use crate::exit::Failure;
use crate::render::Ui;

pub(crate) fn run(args: Model, ui: &Ui) -> Result<()> {
    let Model::Profile { model, output, seed, device } = args;
    let bar = if ui.quiet() || ui.json() { ProgressBar::hidden() } else { ProgressBar::new(100) };
    if let Ok(style) = ProgressStyle::with_template("{msg:34} {bar:32} {percent:>3} %  {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message("loading the model");
    let told = bar.clone();
    let progress = move |stage| {
        let (message, done, total) = match stage {
            ProbeStage::Reading(done, total) => ("reading text", done, total),
            ProbeStage::Asking(done, total) => ("looking for heads that retrieve", done, total),
            ProbeStage::Answering(done, total) => ("trying answers", done, total),
        };
        told.set_message(message);
        told.set_length(total as u64);
        told.set_position(done as u64);
    };
    let (name, profile) = make_profile(&model, &device, seed, progress).map_err(|error| Failure::from(&error))?;
    bar.finish_and_clear();
    let path = output.unwrap_or_else(|| PathBuf::from(format!("{}.profile.json", name.replace('/', "-"))));
    profile.write(&path).map_err(|error| Failure::from(&mnemon_server::Error::from(error)))?;
    if ui.json() {
        return Ok(ui.value(&json!({ "file": path, "profile": Arc::new(profile).as_ref() }))?);
    }
    let measured = &profile.measured;
    let percent = |share: f32| format!("{:.0} %", 100.0 * share);
    let answered = |facts: usize| {
        let used = profile.mode_for(facts);
        let is_used =
            |trial: &&Trial| (trial.facts, trial.mode, trial.extent) == (facts, used, profile.extents.of(used));
        let trial = measured.trials.iter().find(is_used);
        percent(trial.map_or(0.0, |trial| trial.answered))
    };
    let mode = |passages: usize| match profile.mode_for(passages) {
        RecallMode::Attend => "attend",
        RecallMode::Reread => "reread",
    };
    ui.line(format!("wrote {}", path.display()))?;
    for line in [
        format!(
            "search heads (layer.head): {}",
            profile
                .search
                .iter()
                .map(|head| format!("{}.{} ({:.2})", head.query.layer, head.query.head, head.reciprocal_rank))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        format!(
            "passages: at most {}, {}; mode {}, for several {}",
            profile.passages,
            match profile.extents.of(profile.mode_for(1)) {
                Extent::Chunk => "all sentences of a chunk",
                Extent::Sentence => "the sentences asked about",
            },
            mode(1),
            mode(2)
        ),
        format!(
            "layers that memories keep: {} to {}",
            profile.kv_layers.first().unwrap_or(&0),
            profile.kv_layers.last().unwrap_or(&0)
        ),
        format!(
            "on {} tokens of the probe: the right passage used for {}, answered {}, two facts at once {} ({} without memory)",
            measured.tokens,
            percent(measured.found),
            answered(1),
            answered(2),
            percent(measured.answered_without)
        ),
    ] {
        ui.line(line)?;
    }
    Ok(())
}
