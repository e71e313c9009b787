//! Texts at which generation stops.

use mnemon_memory::Invalid;

use crate::error::{Error, Result};

const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1024;

/// Holds back text that may be the beginning of a stop text; never more than the longest of them.
#[derive(Debug)]
pub(super) struct StopFinder {
    stops: Vec<String>,
    held: String,
}

impl StopFinder {
    pub(super) fn new(stops: Vec<String>) -> Result<Self> {
        let invalid = |why: String| Err(Error::Invalid(Invalid { what: "stop", why }));
        if stops.len() > STOPS_MAX {
            return invalid(format!("{} stop texts; at most {STOPS_MAX} are accepted", stops.len()));
        }
        if let Some(stop) = stops.iter().find(|stop| stop.is_empty() || stop.len() > STOP_BYTES_MAX) {
            return invalid(format!("a stop text of {} bytes; 1 to {STOP_BYTES_MAX} are accepted", stop.len()));
        }
        Ok(Self { stops, held: String::new() })
    }

    /// Adds text; returns what can be given out, and whether a stop text was found behind it.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let may_begin = |start: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..]));
        let starts = self.held.char_indices().map(|(start, _)| start);
        let keep = starts.into_iter().find(|&start| may_begin(start)).unwrap_or(self.held.len());
        let kept = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, kept), false)
    }

    /// What is held back still.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool, String) {
        let mut finder = StopFinder::new(stops.iter().map(|&stop| stop.into()).collect()).unwrap();
        let mut given = Vec::new();
        for piece in pieces {
            let (text, found) = finder.push(piece);
            given.push(text);
            if found {
                return (given, true, finder.finish());
            }
        }
        (given, false, finder.finish())
    }

    #[test]
    fn a_stop_over_several_pieces_is_found_and_not_given_out() {
        let (given, found, rest) = run(&["END"], &["a E", "N", "x E", "ND b"]);
        assert_eq!((given.concat().as_str(), found, rest.as_str()), ("a ENx ", true, ""));
        assert_eq!(given, ["a ", "", "ENx ", ""]);
    }

    #[test]
    fn the_first_of_several_wins() {
        let (given, found, _) = run(&["ß!", "b"], &["aß", "!b"]);
        assert_eq!((given.concat().as_str(), found), ("a", true));
    }

    #[test]
    fn what_only_looked_like_a_stop_comes_out_in_the_end() {
        let (given, found, rest) = run(&["\n\nUser"], &["x\n", "\n", "Us"]);
        assert_eq!((given.concat().as_str(), found, rest.as_str()), ("x", false, "\n\nUs"));
    }

    #[test]
    fn unreasonable_stops_are_refused() {
        assert!(StopFinder::new(vec![String::new()]).is_err());
        assert!(StopFinder::new(vec!["x".repeat(2000)]).is_err());
        assert!(StopFinder::new(vec!["x".into(); 17]).is_err());
    }
}
