//! Values as Python writes them: templates were written for Jinja2, where `{{ true }}` is `True`.

#![allow(clippy::needless_pass_by_value)] // as minijinja hands arguments over

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

use super::shield::is_mark;

type Result<T> = std::result::Result<T, Error>;

/// Deepest nesting of what is written.
const DEPTH_MAX: usize = 64;
/// Widest field of a format.
const WIDTH_MAX: usize = 1024;

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Writes what `{{ }}` shows.
pub(super) fn format(output: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<()> {
    output.write_str(&text(value)?).map_err(Error::from)
}

/// `str()` of a value.
pub(super) fn text(value: &Value) -> Result<String> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut written = String::new();
            repr(&mut written, value, DEPTH_MAX)?;
            Ok(written)
        }
    }
}

/// `repr()` of a value.
fn repr(to: &mut String, value: &Value, depth: usize) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else { return Err(invalid("a value is nested too deep")) };
    match value.kind() {
        ValueKind::Undefined => to.push_str("Undefined"),
        ValueKind::None => to.push_str("None"),
        ValueKind::Bool => to.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if value.is_integer() => to.push_str(&value.to_string()),
        ValueKind::Number => to.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => quoted(to, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            to.push('[');
            for (place, item) in value.try_iter()?.enumerate() {
                to.push_str(if place > 0 { ", " } else { "" });
                repr(to, &item, depth)?;
            }
            to.push(']');
        }
        ValueKind::Map => {
            to.push('{');
            for (place, key) in value.try_iter()?.enumerate() {
                to.push_str(if place > 0 { ", " } else { "" });
                repr(to, &key, depth)?;
                to.push_str(": ");
                repr(to, &value.get_item(&key)?, depth)?;
            }
            to.push('}');
        }
        _ => to.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string in quotes, with escapes.
fn quoted(to: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    to.push(quote);
    for sign in text.chars() {
        match sign {
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            '\\' => to.push_str("\\\\"),
            _ if sign == quote => to.extend(['\\', sign]),
            _ if sign == ' ' || is_mark(sign) || is_printable(sign) => to.push(sign),
            _ => {
                let code = u32::from(sign);
                let _ = match code {
                    0..=0xFF => write!(to, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(to, "\\u{code:04x}"),
                    _ => write!(to, "\\U{code:08x}"),
                };
            }
        }
    }
    to.push(quote);
}

/// Whether Python shows a character as it is: no control, no space but " ", nothing private or unassigned that is commonly met.
fn is_printable(sign: char) -> bool {
    !sign.is_control()
        && !sign.is_whitespace()
        && !matches!(sign, '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{E000}'..='\u{F8FF}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{F0000}'..)
}

/// `repr()` of a float: the shortest digits that give it back.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let scientific = format!("{number:e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let digits = scientific.split('e').next().unwrap_or_default();
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
}

/// The filter `tojson`: `json.dumps` with its options, without the escapes for HTML that Jinja2's own filter has.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if !indent.is_none() => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(WIDTH_MAX)),
        }),
        _ => None,
    };
    let separators = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let part = |place: usize| Ok::<_, Error>(pair.get_item_by_index(place)?.as_str().map(str::to_owned));
            part(0)?.zip(part(1)?)
        }
        _ => None,
    };
    let between = if indent.is_some() { "," } else { ", " };
    let (between, after_key) = separators.unwrap_or_else(|| (between.into(), ": ".into()));
    let dumper = Dumper {
        indent,
        between,
        after_key,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut written = String::new();
    dumper.value(&mut written, value, 0)?;
    Ok(written)
}

/// `json.dumps` of Python.
struct Dumper {
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Dumper {
    fn value(&self, to: &mut String, value: &Value, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(invalid("a value is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => to.push_str("null"),
            ValueKind::Bool => to.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => to.push_str(&value.to_string()),
            ValueKind::Number => to.push_str(&match float(f64::try_from(value.clone())?).as_str() {
                "nan" => "NaN".into(),
                "inf" => "Infinity".into(),
                "-inf" => "-Infinity".into(),
                number => number.to_owned(),
            }),
            ValueKind::String => self.string(to, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(to, ('[', ']'), &items, depth, |to, item| self.value(to, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort_by(|a, b| a.as_str().cmp(&b.as_str()).then_with(|| a.cmp(b)));
                }
                self.items(to, ('{', '}'), &keys, depth, |to, key| {
                    match key.as_str() {
                        Some(key) => self.string(to, key),
                        None => self.string(to, &json_key(key)?),
                    }
                    to.push_str(&self.after_key);
                    self.value(to, &value.get_item(key)?, depth + 1)
                })?;
            }
            _ => return Err(invalid(format!("{} is not JSON serializable", value.kind()))),
        }
        Ok(())
    }

    fn items(
        &self,
        to: &mut String,
        (open, close): (char, char),
        items: &[Value],
        depth: usize,
        write: impl Fn(&mut String, &Value) -> Result<()>,
    ) -> Result<()> {
        let line = |to: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                to.push('\n');
                to.extend(std::iter::repeat_n(indent.as_str(), depth));
            }
        };
        to.push(open);
        for (place, item) in items.iter().enumerate() {
            to.push_str(if place > 0 { &self.between } else { "" });
            line(to, depth + 1);
            write(to, item)?;
        }
        if !items.is_empty() {
            line(to, depth);
        }
        to.push(close);
        Ok(())
    }

    fn string(&self, to: &mut String, text: &str) {
        to.push('"');
        for sign in text.chars() {
            match sign {
                '"' => to.push_str("\\\""),
                '\\' => to.push_str("\\\\"),
                '\n' => to.push_str("\\n"),
                '\r' => to.push_str("\\r"),
                '\t' => to.push_str("\\t"),
                '\u{8}' => to.push_str("\\b"),
                '\u{C}' => to.push_str("\\f"),
                '\0'..' ' => {
                    let _ = write!(to, "\\u{:04x}", u32::from(sign));
                }
                _ if self.ensure_ascii && !matches!(sign, ' '..='~') && !is_mark(sign) => {
                    for unit in sign.encode_utf16(&mut [0; 2]) {
                        let _ = write!(to, "\\u{unit:04x}");
                    }
                }
                _ => to.push(sign),
            }
        }
        to.push('"');
    }
}

/// A key that is no string, as `json.dumps` writes it.
fn json_key(key: &Value) -> Result<String> {
    match key.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => text(key),
        _ => Err(invalid("keys must be strings, numbers, booleans or none")),
    }
}

/// `format % values`, and the filter `format` of Jinja2.
pub(super) fn percent_format(format: &str, values: Rest<Value>) -> Result<String> {
    let mut written = String::new();
    let mut values_left = values.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        written.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let named = match rest.strip_prefix('(').and_then(|name| name.split_once(')')) {
            Some((name, after)) => {
                rest = after;
                Some(name)
            }
            None => None,
        };
        let flags = rest.len() - rest.trim_start_matches(['-', '+', '0', ' ', '#']).len();
        let (flags, after) = rest.split_at(flags);
        let width = after.len() - after.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
        let (width, after) = after.split_at(width);
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => {
                let digits = after.len() - after.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
                (Some(number(&after[..digits])?), &after[digits..])
            }
            None => (None, after),
        };
        let Some(kind) = after.chars().next() else { return Err(invalid("incomplete format")) };
        rest = &after[kind.len_utf8()..];
        if kind == '%' {
            written.push('%');
            continue;
        }
        let value = match named {
            Some(name) => values.first().ok_or_else(|| invalid("format requires a mapping"))?.get_attr(name)?,
            None => values_left.next().cloned().ok_or_else(|| invalid("not enough arguments for format string"))?,
        };
        let one = one(kind, &value, flags, precision)?;
        pad(&mut written, &one, flags, number(width)?, kind);
    }
    written.push_str(rest);
    let is_mapping = values.first().is_some_and(|value| value.kind() == ValueKind::Map);
    if values_left.next().is_some() && !is_mapping {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    Ok(written)
}

fn number(digits: &str) -> Result<usize> {
    if digits.is_empty() {
        return Ok(0);
    }
    digits.parse().ok().filter(|number| *number <= WIDTH_MAX).ok_or_else(|| invalid("a field is too wide"))
}

/// One value of a format, without its padding.
fn one(kind: char, value: &Value, flags: &str, precision: Option<usize>) -> Result<String> {
    let signed = |text: String| if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text };
    let as_float =
        || f64::try_from(value.clone()).map_err(|_| invalid(format!("%{kind} format: a real number is required")));
    let as_integer = || match i64::try_from(value.clone()) {
        Ok(integer) => Ok(integer),
        Err(_) => as_float().map(|number| number.trunc() as i64),
    };
    let text = match kind {
        's' => text(value)?,
        'r' | 'a' => {
            let mut written = String::new();
            repr(&mut written, value, DEPTH_MAX)?;
            written
        }
        'd' | 'i' | 'u' => return Ok(signed(as_integer()?.to_string())),
        'x' => return Ok(signed(format!("{:x}", as_integer()?))),
        'X' => return Ok(signed(format!("{:X}", as_integer()?))),
        'o' => return Ok(signed(format!("{:o}", as_integer()?))),
        'f' | 'F' => return Ok(signed(format!("{:.*}", precision.unwrap_or(6), as_float()?))),
        'e' => {
            let written = format!("{:.*e}", precision.unwrap_or(6), as_float()?);
            let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            return Ok(signed(format!("{digits}e{sign}{exponent:0>2}")));
        }
        'c' => text(value)?.chars().take(1).collect(),
        _ => return Err(invalid(format!("unsupported format character '{kind}'"))),
    };
    Ok(match precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    })
}

fn pad(to: &mut String, one: &str, flags: &str, width: usize, kind: char) {
    let fill = width.saturating_sub(one.chars().count());
    if flags.contains('-') {
        to.push_str(one);
        to.extend(std::iter::repeat_n(' ', fill));
    } else if flags.contains('0') && !matches!(kind, 's' | 'r' | 'a' | 'c') {
        let digits = one.trim_start_matches(['-', '+']);
        to.push_str(&one[..one.len() - digits.len()]);
        to.extend(std::iter::repeat_n('0', fill));
        to.push_str(digits);
    } else {
        to.extend(std::iter::repeat_n(' ', fill));
        to.push_str(one);
    }
}

/// The filter `length`, which is 0 of what is not there.
pub(super) fn length(value: &Value) -> Result<usize> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| invalid(format!("{} has no length", value.kind())))
}

/// The filter `int`: a number, or `default` for what is none.
pub(super) fn int(value: &Value, default: Option<i64>, options: Kwargs) -> Result<i64> {
    let default = default.or(options.get("default")?).unwrap_or(0);
    options.assert_all_used()?;
    let number = match value.as_str() {
        Some(text) => text.trim().parse().ok().or_else(|| text.trim().parse::<f64>().ok().map(|number| number as i64)),
        None if value.kind() == ValueKind::Bool => Some(i64::from(value.is_true())),
        None => {
            i64::try_from(value.clone()).ok().or_else(|| f64::try_from(value.clone()).ok().map(|number| number as i64))
        }
    };
    Ok(number.unwrap_or(default))
}

/// The filter `replace`, at most `count` times where that is given.
pub(super) fn replace(value: &Value, from: &str, to: &str, count: Option<usize>) -> Result<String> {
    let text = text(value)?;
    Ok(match count {
        Some(count) => text.replacen(from, to, count),
        None => text.replace(from, to),
    })
}

/// The filter `round`, to even where two are as near.
pub(super) fn round(value: &Value, precision: Option<i32>) -> Result<f64> {
    let factor = 10_f64.powi(precision.unwrap_or(0).clamp(-300, 300));
    Ok((f64::try_from(value.clone())? * factor).round_ties_even() / factor)
}

/// The filter `title`: letters after a space or a bracket are large, and those after an apostrophe are not.
pub(super) fn title(value: &Value) -> Result<String> {
    let mut begins = true;
    let mut written = String::new();
    for sign in text(value)?.chars() {
        if begins {
            written.extend(sign.to_uppercase());
        } else {
            written.extend(sign.to_lowercase());
        }
        begins = sign.is_whitespace() || matches!(sign, '-' | '(' | '{' | '[' | '<');
    }
    Ok(written)
}

/// The filter `join`.
pub(super) fn join(values: &Value, separator: Option<String>, attribute: Option<String>) -> Result<String> {
    let separator = separator.unwrap_or_default();
    let mut written = String::new();
    for (place, value) in values.try_iter()?.enumerate() {
        written.push_str(if place > 0 { &separator } else { "" });
        let value = match &attribute {
            Some(attribute) => value.get_attr(attribute)?,
            None => value,
        };
        written.push_str(&text(&value)?);
    }
    Ok(written)
}

fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Value {
    texts.into_iter().map(Value::from).collect()
}

/// Methods of Python's strings, lists and dictionaries.
pub(super) fn method(state: &State<'_, '_>, value: &Value, method: &str, arguments: &[Value]) -> Result<Value> {
    let others = || minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments);
    let (Some(text), [argument, rest @ ..]) = (value.as_str(), arguments) else { return others() };
    let Some(part) = argument.as_str() else { return others() };
    if matches!(method, "split" | "rsplit") && !part.is_empty() {
        let cuts = match rest.first() {
            Some(cuts) if cuts.is_kwargs() => i64::try_from(cuts.get_attr("maxsplit")?)?,
            Some(cuts) => i64::try_from(cuts.clone())?,
            None => -1,
        };
        let parts = usize::try_from(cuts).map_or(usize::MAX, |cuts| cuts.saturating_add(1));
        if method == "split" {
            return Ok(list(text.splitn(parts, part)));
        }
        let parts: Vec<&str> = text.rsplitn(parts, part).collect();
        return Ok(list(parts.into_iter().rev()));
    }
    if !rest.is_empty() {
        return others();
    }
    match method {
        "removeprefix" => Ok(text.strip_prefix(part).unwrap_or(text).into()),
        "removesuffix" => Ok(text.strip_suffix(part).unwrap_or(text).into()),
        "partition" => Ok(match text.split_once(part) {
            Some((before, after)) => list([before, part, after]),
            None => list([text, "", ""]),
        }),
        "rpartition" => Ok(match text.rsplit_once(part) {
            Some((before, after)) => list([before, part, after]),
            None => list(["", "", text]),
        }),
        _ => others(),
    }
}

/// The test `sequence`, which strings, mappings and what is not there pass in Jinja2.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
}

/// The test `number`, which booleans pass.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// The test `iterable`.
pub(super) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        for (number, written) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (123_456_789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5e+300"),
        ] {
            assert_eq!(float(number), written);
        }
    }

    #[test]
    fn values_are_formatted_as_in_python() {
        let format = |format: &str, values: &[Value]| percent_format(format, Rest(values.to_vec()));
        assert_eq!(
            format(
                "%s, %d%% %05.1f|%-4s|%4s|%+d|%r",
                &[true.into(), 3.into(), 2.25.into(), "a".into(), "b".into(), 7.into(), "it's".into(),]
            )
            .unwrap(),
            "True, 3% 002.2|a   |   b|+7|\"it's\""
        );
        assert_eq!(format("%(a)s", &[minijinja::context! { a => 1.0 }]).unwrap(), "1.0");
        assert!(format("%s", &[]).unwrap_err().to_string().contains("not enough"));
        assert!(
            format("", &[1.into()]).is_err() && format("%", &[]).is_err() && format("%9999s", &[1.into()]).is_err()
        );
    }
}
