//! What the tokens of a vocabulary stand for: words, and where sentences end.

mod sentences;
mod terms;

pub(crate) use sentences::sentences;
pub(crate) use terms::Terms;
