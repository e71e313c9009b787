//! Whether an answer is right.

/// What an answer must say, and must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Of each of these groups, one must be said.
    pub(crate) all: Vec<Vec<String>>,
    /// None of these may be said.
    pub(crate) none: Vec<String>,
    /// All of these numbers must be said, whatever unit stands right behind them.
    pub(crate) numbers: Vec<String>,
    /// For a question that memory cannot answer.
    pub(crate) denial: Option<Denial>,
}

/// What counts as a false answer to a question about what was never said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// A number was asked for: any number is false.
    Number,
    /// Words were asked for: whatever does not say that it is unknown is false.
    Words,
}

/// Digits of the shortest text that is taken for an invented number.
const INVENTED_DIGITS: usize = 3;
/// How models say that they do not know.
const DENIALS: [&str; 30] = [
    "not mention",
    "no mention",
    "not provide",
    "not specif",
    "not state",
    "not explicitly",
    "not given",
    "not include",
    "not contain",
    "not appear",
    "not clear",
    "not available",
    "not know",
    "unknown",
    "don't know",
    "no information",
    "no record",
    "no specific",
    "no answer",
    "doesn't",
    "don't have",
    "do not have",
    "cannot",
    "can't",
    "unable",
    "sorry",
    "there is no",
    "isn't",
    "not in the",
    "none of",
];

impl Expected {
    /// All of these texts.
    pub(crate) fn all_of<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Self {
        Self { all: values.into_iter().map(|value| vec![value.into()]).collect(), ..Self::default() }
    }

    /// One of these texts.
    pub(crate) fn one_of<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Self {
        Self { all: vec![values.into_iter().map(Into::into).collect()], ..Self::default() }
    }

    /// Whether this is a right answer. Case, spaces and commas within numbers do not matter, nor whether a number is spelled digit by digit;
    /// texts are found as whole words.
    pub(crate) fn is_met_by(&self, answer: &str, question: &str) -> bool {
        let said = normal(answer);
        let joined = join_digits(&said);
        let has = |text: &String| [&said, &joined].into_iter().any(|said| contains_words(said, &normal(text)));
        if self.none.iter().any(has) {
            return false;
        }
        match self.denial {
            Some(Denial::Number) => !has_number(&said, &normal(question)),
            Some(Denial::Words) => DENIALS.iter().any(|denial| said.contains(denial)),
            None => {
                let says = |number: &String| numbers(answer).any(|said| said == *number);
                self.all.iter().all(|group| group.iter().any(has)) && self.numbers.iter().all(says)
            }
        }
    }
}

/// Numbers of a text, without commas.
pub(crate) fn numbers(text: &str) -> impl Iterator<Item = String> {
    let pieces = text.split(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',' | ':'));
    let trimmed = pieces.map(|piece| piece.trim_matches(['.', ',', ':']).replace(',', ""));
    trimmed.filter(|number| !number.is_empty())
}

/// Lower case, single spaces, plain apostrophes, no commas within numbers.
fn normal(text: &str) -> String {
    let characters: Vec<char> = text.to_lowercase().chars().map(|c| if c == '’' { '\'' } else { c }).collect();
    let is_digit = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(char::is_ascii_digit);
    let kept: String = characters
        .iter()
        .enumerate()
        .filter(|&(at, &c)| !(c == ',' && is_digit(at.checked_sub(1)) && is_digit(Some(at + 1))))
        .map(|(_, &c)| c)
        .collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A normal text with digits that are listed one by one ("4, 5 and 8") as one number.
fn join_digits(text: &str) -> String {
    let is_digit = |word: &str| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_digit());
    let mut words: Vec<String> = Vec::new();
    let mut is_listed = false;
    for word in text.split_whitespace() {
        let bare = word.trim_end_matches([',', '.', ';']);
        if is_digit(bare) {
            match words.last_mut().filter(|_| is_listed) {
                Some(number) => number.push_str(bare),
                None => words.push(bare.to_owned()),
            }
            is_listed = true;
        } else if !(is_listed && bare == "and") {
            words.push(word.to_owned());
            is_listed = false;
        }
    }
    words.join(" ")
}

/// Whether `part` stands in `text` with no letter or digit directly beside it.
fn contains_words(text: &str, part: &str) -> bool {
    text.match_indices(part).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + part.len()..].chars().next();
        !part.is_empty() && ![before, after].into_iter().flatten().any(char::is_alphanumeric)
    })
}

/// Whether a number is said that the question does not have.
fn has_number(said: &str, question: &str) -> bool {
    said.split(|c: char| !c.is_ascii_digit())
        .any(|digits| digits.len() >= INVENTED_DIGITS && !question.contains(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_as_whole_words() {
        let expected = Expected::all_of(["12345", "third step"]);
        assert!(expected.is_met_by("It is 12,345, under the Third  step.", ""));
        assert!(!expected.is_met_by("It is 123456, under the third step.", ""));
        assert!(!expected.is_met_by("12345", ""));
        assert!(Expected::one_of(["two", "2"]).is_met_by("There are 2.", ""));
        assert!(!Expected::one_of(["ox"]).is_met_by("a box", ""));
    }

    #[test]
    fn a_number_may_be_spelled_digit_by_digit() {
        let expected = Expected::all_of(["21045"]);
        assert!(expected.is_met_by("The digits are 2, 1, 0, 4, and 5.", ""));
        assert!(expected.is_met_by("They are 2 1 0 4 5 in this order", ""));
        assert!(!expected.is_met_by("The digits are 2, 1, 0, and 5.", ""));
        assert!(!expected.is_met_by("2, 1 or 0, 4, 5", ""));
        let outdated = Expected { none: vec!["21045".into()], ..Expected::default() };
        assert!(!outdated.is_met_by("2, 1, 0, 4 and 5", ""));
    }

    #[test]
    fn an_outdated_value_is_wrong() {
        let expected = Expected { none: vec!["Saltgate".into()], ..Expected::all_of(["Tanner Row"]) };
        assert!(expected.is_met_by("At Tanner Row.", ""));
        assert!(!expected.is_met_by("At Saltgate, then Tanner Row.", ""));
    }

    #[test]
    fn invented_values_are_false_and_denials_are_not() {
        let number = Expected { denial: Some(Denial::Number), ..Expected::default() };
        assert!(number.is_met_by("That is not mentioned.", "q"));
        assert!(!number.is_met_by("The code is 4711.", "q"));
        assert!(number.is_met_by("The entry of 1874 does not say.", "In 1874?"));
        let words = Expected { denial: Some(Denial::Words), none: vec!["anvil".into()], ..Expected::default() };
        assert!(words.is_met_by("The text doesn’t say.", "q"));
        assert!(!words.is_met_by("In the kitchen.", "q"));
        assert!(!words.is_met_by("Not mentioned, perhaps under the anvil.", "q"));
    }
}
