//! The one error type of the crate.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use tonic::Code;
use tonic_types::StatusExt as _;

/// A field of a request that the server refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field in the request, such as `memory.top_k_chunks`.
    pub field: String,
    /// What is accepted.
    pub description: String,
}

/// What went wrong in a call, and what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option of [`ConnectOptions`](crate::ConnectOptions) or [`IngestOptions`](crate::IngestOptions) cannot be used.
    #[error("invalid {what}: {why}")]
    Options {
        /// The option.
        what: &'static str,
        /// What is accepted.
        why: String,
    },
    /// A file named in the options cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// No connection could be made.
    #[error("cannot reach the server at {endpoint}: {why}; is it running (mnemon serve)?")]
    Connect {
        /// Where it was looked for.
        endpoint: String,
        /// The innermost cause.
        why: String,
    },
    /// The server answered with an error.
    #[error("{message}{}", listed(violations))]
    Status {
        /// Its gRPC status code.
        code: Code,
        /// What it said.
        message: String,
        /// Machine-readable reason, such as `FINGERPRINT_MISMATCH`; empty when the server gave none.
        reason: String,
        /// What the reason is about, by name, such as `memory`.
        metadata: HashMap<String, String>,
        /// Fields of the request that it refused.
        violations: Vec<FieldViolation>,
    },
    /// The text to ingest, or the archive to import, could not be read to its end. Of a text, what was acknowledged is kept.
    #[error("cannot read what was to be sent: {0}")]
    Source(#[from] std::io::Error),
    /// What the server sent could not be written.
    #[error("cannot write what the server sent: {0}")]
    Sink(std::io::Error),
    /// The stream of answers ended before its last message.
    #[error("the server's answer ended early; the connection may have been lost")]
    EndedEarly,
}

impl Error {
    /// The gRPC status code, when the server answered with one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The refused fields, when the server named some.
    pub fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Status { violations, .. } => violations,
            _ => &[],
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            bad.field_violations
                .iter()
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect()
        });
        let (reason, metadata) =
            details.error_info().map(|info| (info.reason.clone(), info.metadata.clone())).unwrap_or_default();
        Self::Status { code: status.code(), message: status.message().to_owned(), reason, metadata, violations }
    }
}

/// One line for each violation, after the message.
fn listed(violations: &[FieldViolation]) -> String {
    violations.iter().fold(String::new(), |mut lines, violation| {
        // Writing to a string does not fail.
        let _ = write!(lines, "\n  {}: {}", violation.field, violation.description);
        lines
    })
}

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn details_are_decoded_and_shown() {
        let details = ErrorDetails::with_bad_request_violation("k", "1 to 1000 is accepted");
        let error = Error::from(tonic::Status::with_error_details(Code::InvalidArgument, "bad request", details));
        assert_eq!(error.code(), Some(Code::InvalidArgument));
        assert_eq!(error.violations()[0].field, "k");
        assert_eq!(error.to_string(), "bad request\n  k: 1 to 1000 is accepted");
    }
}
