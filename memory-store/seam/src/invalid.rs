//! A refused argument.

/// An argument is outside of what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: {why}")]
pub struct Invalid {
    /// The argument.
    pub what: &'static str,
    /// What is accepted.
    pub why: String,
}
