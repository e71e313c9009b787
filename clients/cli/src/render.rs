//! How things look: colours, tables, bars, excerpts, sizes, durations.
//!
//! Everything for people goes through [`Ui`], which knows what the terminal can do. Functions that only make
//! text take a width, so that they are the same in a test and on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use console::{Term, measure_text_width, truncate_str};
use serde_json::Value;

/// Columns where the width of a terminal is not known.
const WIDTH_DEFAULT: usize = 100;
/// Wider lines are hard to read.
const WIDTH_MAX: usize = 120;
const WIDTH_MIN: usize = 40;

/// Roles that text can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
    /// Names, bars.
    Key,
    /// Right, done.
    Good,
    /// Mind this.
    Warn,
    /// Wrong, failed.
    Bad,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Key => "36",
            Ink::Good => "32",
            Ink::Warn => "33",
            Ink::Bad => "31",
        }
    }

    fn on(self, text: &str) -> String {
        format!("\x1b[{}m{text}\x1b[0m", self.code())
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On terminals, unless `NO_COLOR` is set.
    Auto,
    /// Also in pipes.
    Always,
    /// Nowhere.
    Never,
}

/// Where output goes and what it may look like.
// Each is a question that the commands ask; together they are no state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    json: bool,
    quiet: bool,
    color_out: bool,
    color_err: bool,
    out_is_terminal: bool,
    err_is_terminal: bool,
    width: usize,
}

// Whatever is shown goes through it, also what looks the same everywhere.
#[allow(clippy::unused_self)]
impl Ui {
    pub(crate) fn new(json: bool, quiet: bool, color: Color) -> Self {
        let (out_is_terminal, err_is_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let colored = |terminal: bool| match color {
            Color::Auto => terminal && !no_color,
            Color::Always => true,
            Color::Never => false,
        };
        let width = Term::stdout().size_checked().map_or(WIDTH_DEFAULT, |(_, columns)| usize::from(columns));
        Self {
            json,
            quiet,
            color_out: colored(out_is_terminal) && !json,
            color_err: colored(err_is_terminal) && !json,
            out_is_terminal,
            err_is_terminal,
            width: width.clamp(WIDTH_MIN, WIDTH_MAX),
        }
    }

    /// Whether output is for programs.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether only results are wanted.
    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether somebody watches standard output.
    pub(crate) fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Columns to fill.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Whether to show progress (on standard error).
    pub(crate) fn shows_progress(&self) -> bool {
        self.err_is_terminal && !self.quiet && !self.json
    }

    /// Whether standard error may have colours.
    pub(crate) fn color_err(&self) -> bool {
        self.color_err
    }

    /// Text for standard output.
    pub(crate) fn paint(&self, ink: Ink, text: &str) -> String {
        if self.color_out { ink.on(text) } else { text.to_owned() }
    }

    /// Text for standard error.
    pub(crate) fn paint_err(&self, ink: Ink, text: &str) -> String {
        if self.color_err { ink.on(text) } else { text.to_owned() }
    }

    /// Writes a line to standard output.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{}", text.as_ref())
    }

    /// Writes text to standard output, on as many lines as it takes, in one ink.
    pub(crate) fn paragraph(&self, ink: Option<Ink>, text: &str) -> io::Result<()> {
        for line in excerpt(text, self.width, usize::MAX) {
            self.line(ink.map_or_else(|| line.clone(), |ink| self.paint(ink, &line)))?;
        }
        Ok(())
    }

    /// Writes a label and text to standard error; broken into lines only for a person, who may have a narrow terminal.
    pub(crate) fn paragraph_err(&self, err: &mut impl Write, ink: Ink, label: &str, text: &str) -> io::Result<()> {
        let indent = measure_text_width(label) + 1;
        let lines =
            if self.err_is_terminal { excerpt(text, self.width - indent, usize::MAX) } else { vec![harmless(text)] };
        writeln!(err, "{} {}", self.paint_err(ink, label), lines.join(&format!("\n{:indent$}", "")))
    }

    /// Writes text to standard output at once, without a line break.
    pub(crate) fn piece(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Writes what a program reads.
    pub(crate) fn value(&self, value: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Says something that is not a result: to standard error, unless silenced.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.json {
            // A note that cannot be written is not an error.
            let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
        }
    }
}

/// Which side of a column is straight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table with a heading, two spaces between columns; the widest left-aligned column gives way if the rows are
/// wider than `width`.
pub(crate) fn table(ui: &Ui, heading: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    const GAP: usize = 2;
    let mut widths: Vec<usize> = heading.iter().map(|(name, _)| measure_text_width(name)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    let left = (0..heading.len()).filter(|&c| heading[c].1 == Align::Left).max_by_key(|&c| widths[c]);
    if let Some(column) = left
        && total > ui.width()
    {
        widths[column] = widths[column].saturating_sub(total - ui.width()).max(8);
    }

    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, cell) in cells.enumerate() {
            if column > 0 {
                text.push_str("  ");
            }
            let cell = truncate_str(cell, widths[column], "…");
            let padding = " ".repeat(widths[column].saturating_sub(measure_text_width(&cell)));
            match heading[column].1 {
                Align::Left => text.extend([cell.as_ref(), &padding]),
                Align::Right => text.extend([&padding, cell.as_ref()]),
            }
        }
        text.trim_end().to_owned()
    };
    let mut text = ui.paint(Ink::Dim, &line(&mut heading.iter().map(|(name, _)| *name)));
    for row in rows {
        text.push('\n');
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Names and values below each other.
pub(crate) fn pairs(ui: &Ui, rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| measure_text_width(name)).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let padding = " ".repeat(width - measure_text_width(name));
        format!("{}{padding}  {value}", ui.paint(Ink::Dim, name))
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A bar of eighths, `width` columns wide, for a share of 0 to 1. Anything above 0 leaves a mark.
pub(crate) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mut eighths = (share * width as f64 * 8.0).round() as usize;
    if share > 0.0 {
        eighths = eighths.max(1);
    }
    let text = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    let padding = width.saturating_sub(measure_text_width(&text));
    text + &" ".repeat(padding)
}

/// Text on lines of at most `width` columns, at most `lines` of them: white space and control characters become
/// single spaces; what is left out is marked.
pub(crate) fn excerpt(text: &str, width: usize, lines: usize) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    let width = width.max(8);
    let mut wrapped: Vec<String> = vec![String::new()];
    for word in words {
        let mut word = word.to_owned();
        loop {
            let at = wrapped.len() - 1;
            let used = measure_text_width(&wrapped[at]);
            let gap = usize::from(used > 0);
            if used + gap + measure_text_width(&word) <= width {
                if gap > 0 {
                    wrapped[at].push(' ');
                }
                wrapped[at].push_str(&word);
                break;
            }
            if wrapped.len() == lines {
                // As much of the word as fits, with the mark after it.
                let line = format!("{}{}{word}", wrapped[at], " ".repeat(gap));
                let kept = truncate_str(&line, width - 1, "");
                wrapped[at] = format!("{}…", kept.trim_end());
                return wrapped;
            }
            if used == 0 {
                // A word longer than a line.
                let head = truncate_str(&word, width, "").into_owned();
                word = word[head.len()..].to_owned();
                wrapped[at] = head;
            }
            wrapped.push(String::new());
        }
    }
    wrapped.retain(|line| !line.is_empty());
    wrapped
}

/// Text as it may be shown on a terminal: control characters other than line breaks and tabs are replaced, so
/// that no document or model can steer the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units: `999 B`, `3.3 MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1_000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Large numbers of things: `850`, `4.1 million`.
pub(crate) fn rough_count(n: u64) -> String {
    match n {
        0..10_000 => count(n),
        10_000..1_000_000 => format!("{} thousand", (n as f64 / 1e3).round()),
        1_000_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.1} billion", n as f64 / 1e9),
    }
}

/// A time span: `820 ms`, `4.2 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    let whole = seconds.round() as u64;
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if whole < 3_600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3_600, whole % 3_600 / 60)
    }
}

/// A time of the server without fractions of a second: `2026-11-23T18:44:17Z`.
pub(crate) fn time(rfc3339: Option<impl ToString>) -> String {
    let text = rfc3339.map(|time| time.to_string()).unwrap_or_default();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// A share as `12.3 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `1 document`, `2 documents`.
pub(crate) fn plural(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Ui {
        Ui { width: 30, ..Ui::new(false, false, Color::Never) }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(999), bytes(3_300_000), bytes(999_960)], ["999 B", "3.3 MB", "1.0 MB"]);
        assert_eq!(rough_count(4_123_456), "4.1 million");
        let spans = [0.0, 0.82, 0.9999, 4.24, 59.99, 185.0, 7_800.0].map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(spans, ["0 ms", "820 ms", "1.0 s", "4.2 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"]);
        assert_eq!([plural(1, "chunk"), plural(1_000, "chunk")], ["1 chunk", "1,000 chunks"]);
    }

    #[test]
    fn bars_have_one_width_and_show_the_least_share() {
        for share in [-1.0, 0.0, 1e-9, 0.3, 0.5, 0.999, 1.0, 7.0, f64::NAN] {
            assert_eq!(measure_text_width(&bar(share, 10)), 10, "{share}");
        }
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(1e-9, 2), "▏ ");
        assert_eq!(bar(0.0, 2), "  ");
    }

    #[test]
    fn excerpts_wrap_and_mark_what_is_missing() {
        assert_eq!(excerpt("one two\n\tthree   four", 9, 3), ["one two", "three", "four"]);
        assert_eq!(excerpt("one two three four", 9, 1), ["one two…"]);
        assert_eq!(excerpt("abcdefghijklmno", 8, 5), ["abcdefgh", "ijklmno"]);
        assert_eq!(excerpt("abcdefghijklmno", 8, 1), ["abcdefg…"]);
        assert_eq!(excerpt(" \n", 9, 2), Vec::<String>::new());
        assert_eq!(excerpt("a\x1b[31mb", 9, 1), ["a [31mb"]);
    }

    #[test]
    fn excerpts_never_exceed_their_width() {
        let text = "Пьер и князь 日本語の文章 sat together, andwithoutanyspaceatallwenton and on 🙂 until the end";
        for width in 8..40 {
            for lines in 1..5 {
                let wrapped = excerpt(text, width, lines);
                assert!(wrapped.len() <= lines);
                assert!(wrapped.iter().all(|line| measure_text_width(line) <= width), "{width} {wrapped:?}");
            }
        }
    }

    #[test]
    fn tables_align_and_give_way() {
        let heading = [("NAME", Align::Left), ("TOKENS", Align::Right)];
        let rows =
            vec![vec!["books".into(), "1,200".into()], vec!["a-very-long-name-that-needs-room".into(), "3".into()]];
        let text = table(&plain(), &heading, &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME                    TOKENS");
        assert_eq!(lines[1], "books                    1,200");
        assert_eq!(lines[2], "a-very-long-name-that…       3");
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc\td\r"), "a\u{fffd}[2Jb\nc\td\u{fffd}");
    }
}
