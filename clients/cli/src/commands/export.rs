//! `mnemon export`: a memory becomes one file, which is there whole or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use indicatif::ProgressBar;
use mnemon_client::{Client, Error as ClientError, v1};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::io::{AsyncWrite, BufWriter};

use super::ingest::progress_bar;
use crate::args::{Export, Global};
use crate::exit::{Exit, Failure};
use crate::render::{Ui, bytes, duration, plural};

pub(crate) async fn run(args: Export, global: &Global, ui: &Ui) -> Result<()> {
    let path = args.output.unwrap_or_else(|| PathBuf::from(format!("{}.mnemon", args.memory)));
    let to_stdout = path.as_os_str() == "-";
    if to_stdout && ui.out_is_terminal() {
        let failure = Failure::usage("an archive is not for a terminal");
        return Err(failure.hint("write it to a file with -o FILE, or redirect the output").into());
    }
    if to_stdout && ui.json() {
        return Err(Failure::usage("with --json, standard output is not for the archive: use -o FILE").into());
    }
    if !to_stdout {
        check_target(&path, args.force)?;
    }
    let client = super::connect(global).await?;
    let begun = Instant::now();
    let mut told = v1::ExportStart::default();
    let written = if to_stdout {
        receive(&client, &args.memory, tokio::io::stdout(), ui, &mut told).await?
    } else {
        let file = temporary(&path)?;
        let sink = BufWriter::new(tokio::fs::File::from_std(file.reopen().map_err(|e| unwritable(&path, &e))?));
        let written = receive(&client, &args.memory, sink, ui, &mut told).await?;
        keep(file, &path, args.force)?;
        written
    };
    if ui.json() {
        return Ok(ui.value(&json!({
            "memory": args.memory,
            "file": path.display().to_string(),
            "bytes": written,
            "documents": told.documents,
            "chunks": told.chunks,
            "tokens": told.tokens,
            "seconds": begun.elapsed().as_secs_f64(),
        }))?);
    }
    let what = format!("{} with {}", plural(told.documents, "document"), plural(told.tokens, "token"));
    let to = if to_stdout { "standard output".to_owned() } else { path.display().to_string() };
    ui.note(format!("exported {} to {to}: {what}, {} in {}", args.memory, bytes(written), duration(begun.elapsed())));
    Ok(())
}

/// Writes the archive to `sink`; Ctrl-C ends it.
async fn receive(
    client: &Client,
    memory: &str,
    sink: impl AsyncWrite + Unpin,
    ui: &Ui,
    told: &mut v1::ExportStart,
) -> Result<u64> {
    let bar = progress_bar(ui, memory, Some(0));
    let exported = tokio::select! {
        exported = client.export_memory(memory, sink, |start, written| {
            *told = *start;
            show(&bar, written, start.bytes_about.max(written));
        }) => exported,
        () = super::interrupted() => {
            bar.finish_and_clear();
            return Err(Failure::new(Exit::Interrupted, "interrupted: nothing was written").into());
        }
    };
    bar.finish_and_clear();
    exported.map_err(|error| match error {
        // A reader that goes away is no fault of ours.
        ClientError::Sink(source) if source.kind() == io::ErrorKind::BrokenPipe => source.into(),
        other => anyhow::Error::from(other),
    })
}

/// Moves a bar over bytes.
pub(super) fn show(bar: &ProgressBar, done: u64, all: u64) {
    bar.set_length(all);
    bar.set_position(done);
    bar.set_message(bytes(done));
}

fn check_target(path: &Path, force: bool) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::usage(format!("{} is a folder, not a file", path.display())));
    }
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    Ok(())
}

fn exists(path: &Path) -> Failure {
    Failure::new(Exit::Conflict, format!("{} exists already", path.display()))
        .hint("choose another file, or overwrite it with --force")
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot write {}: {error}", path.display()))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file beside `path` that goes unless it is kept.
fn temporary(path: &Path) -> Result<NamedTempFile, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".mnemon-export-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // As any file that the user makes; the umask takes its part.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder(path)).map_err(|error| unwritable(path, &error))
}

/// Makes the file durable, then gives it its name.
fn keep(file: NamedTempFile, path: &Path, force: bool) -> Result<(), Failure> {
    file.as_file().sync_all().map_err(|error| unwritable(path, &error))?;
    let kept = if force { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => unwritable(path, &error.error),
    })?;
    // The name is as durable as the bytes; a system that cannot do that has done what it can.
    if let Ok(folder) = std::fs::File::open(folder(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}
