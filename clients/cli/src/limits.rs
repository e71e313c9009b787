//! Times to live and sizes as people write them.

use std::fmt::Write as _;
use std::time::Duration;

use mnemon_client::v1;

use crate::exit::Failure;
use crate::render::{bytes, count, time};

/// `90s`, `15m`, `12h`, `30d`, several of them (`1d12h`), or `none`, which is zero: the contract's way to take a limit away.
pub(crate) fn parse_ttl(text: &str) -> Result<Duration, String> {
    if text == "none" {
        return Ok(Duration::ZERO);
    }
    let why = || "write a number and s, m, h, d or w, such as 90s, 15m, 12h or 30d; or none".to_owned();
    let (mut rest, mut seconds) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| why())?;
        let unit = rest[digits..].chars().next().ok_or_else(why)?;
        let in_unit = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(why()),
        };
        seconds = number.checked_mul(in_unit).and_then(|more| seconds.checked_add(more)).ok_or_else(why)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    // Zero would take the limit away, which somebody who writes 0s may not mean.
    if seconds == 0 { Err(why()) } else { Ok(Duration::from_secs(seconds)) }
}

/// A number above 0, or `none`, which is zero.
pub(crate) fn parse_tokens(text: &str) -> Result<u64, String> {
    parse_number(text, &[("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)])
        .ok_or_else(|| "write a number above 0, such as 500000, 500k or 2M; or none".into())
}

/// Bytes, with or without a unit, or `none`, which is zero.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    parse_number(text, &units).ok_or_else(|| "write bytes above 0, such as 800000, 500MB or 2GiB; or none".into())
}

fn parse_number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    if text == "none" {
        return Some(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let in_unit = match unit {
        "" => 1,
        _ => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(in_unit).filter(|number| *number > 0)
}

/// A time to live as people write it: `30d`, `1d12h`, `90s`.
fn ttl(span: &Duration) -> String {
    let (mut rest, mut text) = (span.as_secs(), String::new());
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            // Writing to a string does not fail.
            let _ = write!(text, "{}{unit}", rest / seconds);
            rest %= seconds;
        }
    }
    if span.subsec_millis() > 0 {
        let _ = write!(text, "{}ms", span.subsec_millis());
    }
    text
}

/// A time to live of the contract; the server gives none that is negative.
pub(crate) fn shown_ttl<T: TryInto<Duration>>(span: T) -> String {
    span.try_into().map_or_else(|_| String::new(), |span| ttl(&span))
}

/// A time to live for the wire.
pub(crate) fn wire<T>(span: Option<Duration>) -> Result<Option<T>, Failure>
where
    Duration: TryInto<T>,
{
    let long = |_| Failure::usage("a time to live is longer than 100 years");
    span.map(|span| span.try_into().map_err(long)).transpose()
}

/// What a memory's limits say, for people.
pub(crate) fn rows(memory: &v1::Memory) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(ttl) = memory.ttl {
        rows.push((
            "expires",
            format!("{}, {} after its last change", time(memory.expires_at.as_ref()), shown_ttl(ttl)),
        ));
    }
    if let Some(ttl) = memory.document_ttl {
        rows.push(("documents live", format!("{} after their last commit, unless they say otherwise", shown_ttl(ttl))));
    }
    if let Some(tokens) = memory.max_tokens {
        rows.push((
            "may hold",
            format!("{} tokens ({} left)", count(tokens), count(tokens.saturating_sub(memory.tokens))),
        ));
    }
    if let Some(most) = memory.max_bytes {
        let left = bytes(most.saturating_sub(memory.stored_bytes));
        rows.push(("may take", format!("{} on disk ({left} left)", bytes(most))));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_read_and_shown() {
        let seconds = |text: &str| parse_ttl(text).map(|span| span.as_secs()).ok();
        assert_eq!(["90s", "15m", "12h", "30d", "2w"].map(seconds), [90, 900, 43_200, 2_592_000, 1_209_600].map(Some));
        assert_eq!([seconds("1d12h"), seconds("none")], [Some(129_600), Some(0)]);
        for wrong in
            ["", "0s", "90", "s", "1.5h", "-1d", "3y", "1d 2h", "9999999999999999999d", "99999999999999999w", "5µ"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        let shown = [90, 900, 129_600, 2_592_000].map(|seconds| shown_ttl(Duration::from_secs(seconds)));
        assert_eq!(shown, ["1m30s", "15m", "1d12h", "30d"]);
        assert_eq!(shown_ttl(Duration::from_millis(1500)), "1s500ms");
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(["17", "500k", "2M", "none"].map(|t| parse_tokens(t).ok()), [17, 500_000, 2_000_000, 0].map(Some));
        assert_eq!(
            ["17", "5GB", "2GiB", "none"].map(|t| parse_bytes(t).ok()),
            [17, 5_000_000_000, 2 << 30, 0].map(Some)
        );
        for wrong in ["", "0", "-5", "5 GB", "5gb", "GB", "99999999999999TB"] {
            assert!(parse_bytes(wrong).is_err() && parse_tokens(wrong).is_err(), "{wrong}");
        }
    }
}
