//! `mnemon model`: what can be done with a model without a server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mnemon_runtime::hub::Pulling;
use mnemon_runtime::{Extent, HubName, ModelSource, RecallMode, Trial, hub};
use mnemon_server::{ProbeStage, make_profile};
use serde_json::json;

use crate::args::Model;
use crate::exit::Failure;
use crate::render::{Ui, bytes};

pub(crate) fn run(args: Model, ui: &Ui) -> Result<()> {
    match args {
        Model::Profile { model, output, seed, device } => profile(&model, output, seed, &device, ui),
        Model::Pull { model } => pull(&model, ui),
        Model::List => list(ui),
        Model::Show { model } => show(&model, ui),
        Model::Remove { model } => remove(&model, ui),
    }
}

/// An error of the runtime in the words of the command line.
fn told(error: mnemon_runtime::Error) -> Failure {
    Failure::from(&mnemon_server::Error::from(error))
}

fn pull(name: &HubName, ui: &Ui) -> Result<()> {
    let bar = if ui.quiet() || ui.json() { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) =
        ProgressStyle::with_template("{msg:34!} {bar:24} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}")
    {
        bar.set_style(style);
    }
    let pulled = hub::pull(name, |stage| match stage {
        Pulling::Begins { file, bytes } => {
            bar.reset();
            bar.set_length(bytes);
            bar.set_message(file.to_owned());
        }
        Pulling::Came(bytes) => bar.set_position(bytes),
        Pulling::Verifying => bar.set_message("verifying"),
    });
    bar.finish_and_clear();
    let model = pulled.map_err(told)?;
    if ui.json() {
        return Ok(ui.value(&value(&model))?);
    }
    Ok(ui.line(format!("{name} is here: {}, commit {}", bytes(model.bytes()), short(&model.commit)))?)
}

fn list(ui: &Ui) -> Result<()> {
    let models = hub::cached().map_err(told)?;
    if ui.json() {
        return Ok(ui.value(&models.iter().map(value).collect())?);
    }
    for model in &models {
        let names: Vec<String> = model.names().iter().map(ToString::to_string).collect();
        let (size, commit) = (bytes(model.bytes()), short(&model.commit));
        if names.is_empty() {
            ui.line(format!("{}  {size}, commit {commit}: not complete; mnemon model pull {}", model.id, model.id))?;
        }
        for name in names {
            ui.line(format!("{name}  {size}, commit {commit}"))?;
        }
    }
    if models.is_empty() && !ui.quiet() {
        ui.line("no model was downloaded yet: mnemon model pull ORG/NAME")?;
    }
    Ok(())
}

fn show(model: &str, ui: &Ui) -> Result<()> {
    let source = ModelSource::parse(model).map_err(told)?;
    if let ModelSource::Hub(name) = &source
        && !hub::is_here(name).map_err(told)?
    {
        bail!("{name} was not downloaded: mnemon model pull {name}");
    }
    let info = mnemon_runtime::Model::inspect(&source).map_err(told)?;
    let config = &info.config;
    let template = match &info.chat_template {
        Some(Ok(())) => "yes".to_owned(),
        Some(Err(why)) => format!("cannot be used: {why}"),
        None => "none".to_owned(),
    };
    if ui.json() {
        return Ok(ui.value(&json!({
            "name": info.name,
            "architecture": format!("{:?}", config.architecture).to_lowercase(),
            "layers": config.layers,
            "heads": config.heads,
            "kv_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "vocabulary": config.vocab_size,
            "context_tokens": config.max_position_embeddings,
            "chat_template": template,
        }))?);
    }
    for (key, value) in [
        ("name", info.name.clone()),
        ("architecture", format!("{:?}", config.architecture).to_lowercase()),
        ("layers", config.layers.to_string()),
        ("heads", format!("{} of {}, {} for keys and values", config.heads, config.head_dim, config.kv_heads)),
        ("vocabulary", config.vocab_size.to_string()),
        ("context", format!("{} tokens", config.max_position_embeddings)),
        ("chat template", template),
    ] {
        ui.line(format!("{key:14} {value}"))?;
    }
    Ok(())
}

fn remove(name: &HubName, ui: &Ui) -> Result<()> {
    let freed = hub::remove(name).map_err(told)?;
    if ui.json() {
        return Ok(ui.value(&json!({ "removed": name.to_string(), "bytes": freed }))?);
    }
    Ok(ui.line(format!("removed {name}: {}", bytes(freed)))?)
}

fn value(model: &hub::CachedModel) -> serde_json::Value {
    json!({
        "id": model.id,
        "names": model.names().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "commit": model.commit,
        "revisions": model.revisions,
        "bytes": model.bytes(),
        "files": model.files.iter().map(|(file, _)| file).collect::<Vec<_>>(),
        "folder": model.folder,
    })
}

/// The beginning of a commit, by which people know it.
fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

fn profile(model: &str, output: Option<PathBuf>, seed: u64, device: &str, ui: &Ui) -> Result<()> {
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
    let (name, profile) = make_profile(model, device, seed, progress).map_err(|error| Failure::from(&error))?;
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
