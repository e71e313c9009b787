//! What the templates of transformers may have beyond the language of minijinja.

/// Deepest nesting of brackets that is adapted; what is deeper is refused by the parser.
const DEPTH_MAX: usize = 128;

/// A template in the language of minijinja: `{% generation %}` and its end, which mark what a model is trained on, become a block that is
/// always shown; a string before `%` becomes the filter `percent_format`; and what `~` joins becomes a text as in Python.
pub(super) fn adapt(template: &str) -> String {
    let mut adapted = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = next_tag(rest) {
        let (text, tag) = rest.split_at(start);
        adapted.push_str(text);
        let length =
            if tag.starts_with("{#") { tag.find("#}").map_or(tag.len(), |end| end + 2) } else { length_of(tag) };
        let (tag, after) = tag.split_at(length);
        rest = after;
        match name_of(tag) {
            "raw" => {
                let end = end_of_raw(rest);
                adapted.push_str(tag);
                // Jinja2 keeps a line's end that follows; here it would go.
                if rest.starts_with('\n') && !tag.ends_with("-%}") {
                    adapted.push('\n');
                }
                adapted.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            name @ "generation" => adapted.push_str(&tag.replacen(name, "if true", 1)),
            name @ "endgeneration" => adapted.push_str(&tag.replacen(name, "endif", 1)),
            _ if tag.starts_with("{#") => adapted.push_str(tag),
            _ => adapted.push_str(&as_in_python(tag, DEPTH_MAX)),
        }
    }
    adapted.push_str(rest);
    adapted
}

/// Where the next tag, expression or comment begins.
fn next_tag(text: &str) -> Option<usize> {
    let opens = |at: &usize| ["{{", "{%", "{#"].iter().any(|open| text[*at..].starts_with(open));
    text.match_indices('{').map(|(at, _)| at).find(opens)
}

/// Bytes of a tag or expression, with the signs that open and close it.
fn length_of(tag: &str) -> usize {
    let close = if tag.starts_with("{{") { "}}" } else { "%}" };
    let mut at = 2;
    while at < tag.len() {
        if tag[at..].starts_with(close) {
            return at + close.len();
        }
        at += unit_length(&tag[at..]);
    }
    tag.len()
}

/// Bytes of what begins here: a string, a bracket with all that it holds, or a character.
fn unit_length(text: &str) -> usize {
    match text.chars().next() {
        Some('\'' | '"') => string_length(text),
        Some('(' | '[' | '{') => bracket_length(text),
        sign => sign.map_or(0, char::len_utf8),
    }
}

/// The first word of a statement; empty for expressions and comments.
fn name_of(tag: &str) -> &str {
    let Some(inside) = tag.strip_prefix("{%") else { return "" };
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    let end = inside.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(inside.len());
    &inside[..end]
}

/// Where the tag begins that ends a raw block.
fn end_of_raw(text: &str) -> usize {
    let ends = |at: &usize| name_of(&text[*at..]) == "endraw";
    text.match_indices("{%").map(|(at, _)| at).find(ends).unwrap_or(text.len())
}

/// Bytes of a string with its quotes.
fn string_length(text: &str) -> usize {
    let Some(quote) = text.chars().next() else { return 0 };
    let mut is_escaped = false;
    for (at, sign) in text.char_indices().skip(1) {
        match sign {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if sign == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Bytes of a bracket with all that it holds.
fn bracket_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(sign) = text[at..].chars().next() {
        match sign {
            '\'' | '"' => {
                at += string_length(&text[at..]);
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += sign.len_utf8();
        if depth == 0 {
            break;
        }
    }
    at
}

/// A tag with Python's way of formatting, and of joining: `'...' % values`, and `~` between values of any kind.
fn as_in_python(tag: &str, depth: usize) -> String {
    let mut adapted = String::with_capacity(tag.len());
    let mut at = 0;
    let mut before = ' ';
    while let Some(sign) = tag[at..].chars().next() {
        if !is_operand(sign) || at < 2 {
            adapted.push(sign);
            at += sign.len_utf8();
            before = if sign.is_whitespace() { before } else { sign };
            continue;
        }
        let mut length = operand_length(&tag[at..]);
        let mut operand = inside(&tag[at..at + length], depth);
        let is_string = matches!(sign, '\'' | '"');
        let values = tag[at + length..].trim_start().strip_prefix('%').filter(|values| !values.starts_with('}'));
        if let Some(values) = values.filter(|_| is_string).map(str::trim_start) {
            let values_length = operand_length(values);
            let values_adapted = inside(&values[..values_length], depth);
            let arguments = tuple(&values_adapted).unwrap_or(&values_adapted);
            operand.extend(["|percent_format(", arguments, ")"]);
            length = tag.len() - at - values.len() + values_length;
        }
        at += length;
        adapted.push_str(&operand);
        let rest = tag[at..].trim_start();
        let after = rest.chars().next().filter(|_| !rest.starts_with("%}")).unwrap_or(' ');
        let is_one = |sign| !matches!(sign, '*' | '/' | '%');
        if (before == '~' && is_one(after)) || (after == '~' && is_one(before)) {
            adapted.push_str("|string");
        }
        before = ' ';
    }
    adapted
}

/// A value whose brackets are adapted.
fn inside(operand: &str, depth: usize) -> String {
    let Some(depth) = depth.checked_sub(1) else { return operand.to_owned() };
    let mut adapted = String::with_capacity(operand.len());
    let mut at = 0;
    while let Some(sign) = operand[at..].chars().next() {
        let rest = &operand[at..];
        match sign {
            '\'' | '"' => {
                let length = string_length(rest);
                adapted.push_str(&rest[..length]);
                at += length;
            }
            '(' | '[' | '{' => {
                let length = bracket_length(rest);
                let inner = as_in_python(&format!("  {}", &rest[1..length]), depth);
                adapted.push(sign);
                adapted.push_str(&inner[2..]);
                at += length;
            }
            _ => {
                adapted.push(sign);
                at += sign.len_utf8();
            }
        }
    }
    adapted
}

/// Whether a value may begin with a character.
fn is_operand(sign: char) -> bool {
    sign.is_alphanumeric() || matches!(sign, '_' | '\'' | '"' | '(' | '[' | '{')
}

/// Bytes of a value with what is taken from it: attributes, elements, calls and filters; at least one character.
fn operand_length(text: &str) -> usize {
    let word = |text: &str| text.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(text.len());
    let mut at = match text.chars().next() {
        Some('\'' | '"') => string_length(text),
        Some('(' | '[' | '{') => bracket_length(text),
        Some('-') => 1 + word(&text[1..]),
        Some(sign) => word(text).max(sign.len_utf8()),
        None => 0,
    };
    loop {
        let rest = &text[at..];
        let spaces = rest.len() - rest.trim_start().len();
        at += match rest.chars().next() {
            Some('(' | '[') => bracket_length(rest),
            Some('.') => 1 + word(&rest[1..]),
            _ if rest.trim_start().starts_with('|') => {
                let filter = &rest[spaces + 1..];
                let before = filter.len() - filter.trim_start().len();
                spaces + 1 + before + word(&filter[before..])
            }
            _ => return at,
        };
    }
}

/// What stands in the brackets of a tuple.
fn tuple(operand: &str) -> Option<&str> {
    let inside = operand.strip_prefix('(')?.strip_suffix(')')?;
    if bracket_length(operand) != operand.len() {
        return None;
    }
    let mut at = 0;
    while at < inside.len() {
        if inside[at..].starts_with(',') {
            return Some(inside.trim_end().trim_end_matches(','));
        }
        at += unit_length(&inside[at..]);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_blocks() {
        assert_eq!(
            adapt("a {%- generation -%} {{ x }} {%+ endgeneration %}"),
            "a {%- if true -%} {{ x }} {%+ endif %}"
        );
        assert_eq!(adapt("{% set generation = 1 %}{{ generation }}"), "{% set generation = 1 %}{{ generation }}");
    }

    #[test]
    fn strings_are_formatted_by_a_filter() {
        for (from, to) in [
            ("{{ '%s' % x }}", "{{ '%s'|percent_format(x) }}"),
            ("{{ '%s: %d' % (a, b.c[0]) ~ d }}", "{{ '%s: %d'|percent_format(a, b.c[0])|string ~ d|string }}"),
            ("{{ f(a ~ b.c | upper, d) }}", "{{ f(a|string ~ b.c | upper|string, d) }}"),
            ("{{ a * 2 ~ b % 2 ~ 'é' + c }}", "{{ a * 2 ~ b % 2 ~ 'é'|string + c }}"),
            (
                "{% set x = not y ~ [z ~ 1] ~ 2 %}",
                "{% set x = not y|string ~ [z|string ~ 1|string]|string ~ 2|string %}",
            ),
            ("{{ \"%s\"%(a) }}", "{{ \"%s\"|percent_format((a)) }}"),
            ("{{ '%s' % (a, ) }}", "{{ '%s'|percent_format(a) }}"),
            ("{{ '%s' % x | upper + 'y' }}", "{{ '%s'|percent_format(x | upper) + 'y' }}"),
            ("{{ '%s' % ('%d' % y).strip() }}", "{{ '%s'|percent_format(('%d'|percent_format(y)).strip()) }}"),
            ("{% if loop.index0 % 2 == 0 %}", "{% if loop.index0 % 2 == 0 %}"),
            ("{% if x == 'a' %}", "{% if x == 'a' %}"),
            ("{{ '\\'%}' % x }}", "{{ '\\'%}'|percent_format(x) }}"),
            ("'%s' % x", "'%s' % x"),
            ("{# '%s' % x #}{{ {'a': '}}'} }}", "{# '%s' % x #}{{ {'a': '}}'} }}"),
            (
                "{% raw %}{{ '%s' % x }}{% generation %}{% endraw %}",
                "{% raw %}{{ '%s' % x }}{% generation %}{% endraw %}",
            ),
        ] {
            assert_eq!(adapt(from), to);
        }
    }

    #[test]
    fn what_is_cut_short_is_left_as_it_is() {
        for text in
            ["{{", "{% raw %}", "{{ 'a", "{{ '%s' % ", "{{ '%s' % (", "{#", "{%", "{{ '%s' % x|", "{{ ( } ] 'é' % é"]
        {
            let _ = adapt(text);
        }
        assert_eq!(adapt("{{ 'a"), "{{ 'a");
        let deep = format!("{{{{ {}", "(".repeat(100_000));
        assert_eq!(adapt(&deep), deep);
    }
}
