//! The one error type of the crate.

/// Why a kernel refused its arguments. Kernels check shapes before they touch data and never panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer does not have the size that the shape asks for.
    #[error("{what} holds {got} values, but the shape asks for {expected}")]
    Size {
        /// The buffer.
        what: &'static str,
        /// Values that the shape asks for.
        expected: usize,
        /// Values in the buffer.
        got: usize,
    },
    /// A shape makes no sense.
    #[error("invalid shape: {0}")]
    Shape(String),
}

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
