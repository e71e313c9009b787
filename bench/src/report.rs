//! What a measurement leaves behind: `NAME.json` and `NAME.svg`, with the command that made them and the machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mnemon_client::v1;
use serde_json::{Value, json};

/// Where results go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Output {
    /// Folder for the JSON file and the plot.
    #[arg(long, value_name = "DIR", default_value = "docs/results")]
    out: PathBuf,
}

impl Output {
    /// Writes the results of a measurement without a model and a plot.
    pub(crate) fn write_json(&self, name: &str, results: &Value) -> Result<()> {
        self.write_file(
            &format!("{name}.json"),
            &as_text(&json!({
                "command": command(),
                "machine": machine(),
                "results": results,
            }))?,
        )
    }

    fn write_file(&self, name: &str, content: &str) -> Result<()> {
        std::fs::create_dir_all(&self.out).with_context(|| format!("{} cannot be made", self.out.display()))?;
        let path = self.out.join(name);
        std::fs::write(&path, content).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("wrote {}", path.display());
        Ok(())
    }

    /// Writes the results of `name`.
    pub(crate) fn write(&self, name: &str, model: &v1::Model, results: &Value, plot: &str) -> Result<()> {
        let report = as_text(&json!({
            "command": command(),
            "machine": machine(),
            "model": {"name": model.name, "fingerprint": model.fingerprint, "parameters": model.parameters},
            "results": results,
        }))?;
        self.write_file(&format!("{name}.json"), &report)?;
        self.write_file(&format!("{name}.svg"), plot)
    }
}

fn as_text(report: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// The command that this process runs.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("mnemon {}", arguments.join(" "))
}

/// The processor and the number of threads it offers.
fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    json!({"cpu": cpu, "threads": threads, "os": std::env::consts::OS, "arch": std::env::consts::ARCH})
}

/// Parses a number of tokens such as `512`, `8k` or `1m`.
pub(crate) fn parse_tokens(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 1_000),
        Some(b'm') => (&lower[..lower.len() - 1], 1_000_000),
        _ => (lower.as_str(), 1),
    };
    let wrong = || format!("{text:?} is no number of tokens; try 512, 8k or 1m (at most 100m)");
    let tokens = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
    if tokens > 100_000_000 { Err(wrong()) } else { Ok(tokens) }
}

/// `8000` as `8k`.
pub(crate) fn tokens_label(tokens: u64) -> String {
    match tokens {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        n if n >= 1_000 => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}

/// The UTF-8 text files of a folder, by name.
pub(crate) fn texts(folder: &Path) -> Result<Vec<(String, String)>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read; name a folder of .txt files", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    anyhow::ensure!(!paths.is_empty(), "{} holds no .txt files", folder.display());
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
    };
    paths.into_iter().map(read).collect()
}

/// The first place at or after `at` where a line begins.
pub(crate) fn line_start(text: &str, at: usize) -> usize {
    let at = (at..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_of_tokens_are_read_and_shown() {
        assert_eq!(parse_tokens("8k").unwrap(), 8_000);
        assert_eq!(parse_tokens("1M").unwrap(), 1_000_000);
        assert_eq!(parse_tokens("512").unwrap(), 512);
        for wrong in ["", "k", "-1", "8g", "101m", "99999999999999999999"] {
            assert!(parse_tokens(wrong).is_err(), "{wrong}");
        }
        assert_eq!([512, 65_000, 1_000_000].map(tokens_label), ["512", "65k", "1M"]);
    }

    #[test]
    fn lines_begin_after_line_breaks() {
        let text = "äb\ncd\n";
        assert_eq!([0, 1, 4].map(|at| line_start(text, at)), [4, 4, 7]);
        assert_eq!(line_start(text, 99), 7);
    }
}
