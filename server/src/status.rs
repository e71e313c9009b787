//! Every error of every crate to a gRPC status. The only place that knows both.
//!
//! Each status carries an `ErrorInfo` whose reason programs can match on, and field violations where a field is to
//! blame. Errors that are the server's own fault are logged in full and told in general: their messages may name
//! paths.

use std::collections::HashMap;
use std::time::Duration;

use mnemon_encoder::Error as EncoderError;
use mnemon_memory::{Error as MemoryError, Invalid};
use mnemon_memory_store::Error as StoreError;
use mnemon_runtime::Error as RuntimeError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// `ErrorInfo.domain` of all statuses.
const DOMAIN: &str = "mnemon";

/// When to come back after an overload.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error that a caller can be told.
pub(crate) trait IntoStatus {
    /// The status; `field` is the field of the request that held the text to blame, if it is a text's fault.
    fn into_status(self, field: &str) -> Status;
}

impl IntoStatus for MemoryError {
    fn into_status(self, field: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::Invalid(invalid) => invalid.into_status(field),
            Self::FingerprintMismatch { memory, .. } => {
                about_memory(Code::FailedPrecondition, message, "FINGERPRINT_MISMATCH", memory)
            }
            Self::UnknownChunk { .. } => with_reason(Code::NotFound, message, "CHUNK_NOT_FOUND"),
            Self::Damaged { .. } => {
                tracing::error!("{message}");
                with_reason(Code::DataLoss, message, "DAMAGED")
            }
            Self::Backend(source) => match source.downcast::<StoreError>() {
                Ok(error) => error.into_status(field),
                Err(source) => match source.downcast::<Status>() {
                    Ok(status) => from_store(*status),
                    Err(_) => internal(&message),
                },
            },
            // What may come.
            _ => internal(&message),
        }
    }
}

impl IntoStatus for Invalid {
    fn into_status(self, _field: &str) -> Status {
        invalid(vec![violation(self.what, self.why)])
    }
}

impl IntoStatus for StoreError {
    fn into_status(self, field: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::UnknownMemory { name } => about_memory(Code::NotFound, message, "MEMORY_NOT_FOUND", name),
            Self::UnknownDocument { .. } => with_reason(Code::NotFound, message, "DOCUMENT_NOT_FOUND"),
            Self::MemoryExists { .. } => with_reason(Code::AlreadyExists, message, "MEMORY_EXISTS"),
            Self::DocumentBusy { .. } => with_reason(Code::Aborted, message, "DOCUMENT_BUSY"),
            Self::Invalid(invalid) => invalid.into_status(field),
            Self::Limit { .. } => with_reason(Code::ResourceExhausted, message, "LIMIT"),
            Self::Quota { owner, what, limit, held, .. } => {
                let (limit, held) = (limit.to_string(), held.to_string());
                let known = [("owner", owner), ("counted", what.to_owned()), ("limit", limit), ("held", held)];
                let known: HashMap<_, _> = known.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                let details = ErrorDetails::with_error_info("QUOTA", DOMAIN, known);
                Status::with_error_details(Code::ResourceExhausted, message, details)
            }
            Self::Archive { .. } => invalid(vec![violation("data", message)]),
            Self::MemoryChanged { .. } => with_reason(Code::Aborted, message, "MEMORY_CHANGED"),
            Self::NoSpace { .. } => {
                tracing::error!("{message}");
                with_reason(Code::ResourceExhausted, message, "NO_SPACE")
            }
            Self::Damaged { .. } => {
                tracing::error!("{message}");
                with_reason(Code::DataLoss, message, "DAMAGED")
            }
            Self::UnknownChunk { .. } => with_reason(Code::NotFound, message, "CHUNK_NOT_FOUND"),
            // InUse, Io, Catalog, and what may come.
            _ => internal(&message),
        }
    }
}

impl IntoStatus for Status {
    fn into_status(self, _field: &str) -> Status {
        self
    }
}

/// What a store on another machine answered; if it did not, that it cannot be reached.
fn from_store(status: Status) -> Status {
    if status.get_details_error_info().is_some() {
        return status;
    }
    tracing::error!(code = ?status.code(), message = status.message(), "the store did not answer");
    let message =
        "the store that keeps the memories cannot be reached; try again later (what was acknowledged is kept)";
    with_reason(Code::Unavailable, message, "STORE_UNREACHABLE")
}

impl IntoStatus for RuntimeError {
    fn into_status(self, field: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::EmptyPrompt | Self::PromptTooLong { .. } => invalid(vec![violation(field, message)]),
            Self::ChatTemplate { .. } => invalid(vec![violation("messages", message)]),
            Self::Invalid(invalid) => invalid.into_status(field),
            Self::Geometry { .. } => with_reason(Code::FailedPrecondition, message, "GEOMETRY_MISMATCH"),
            Self::Overloaded { .. } => overloaded(&message, "QUEUE_FULL"),
            Self::ShuttingDown => shutting_down(),
            Self::Memory(error) => error.into_status(field),
            _ => internal(&message),
        }
    }
}

impl IntoStatus for EncoderError {
    fn into_status(self, field: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::InvalidUtf8 { .. }
            | Self::EmptyDocument
            | Self::EmptyQuery
            | Self::ResumeMismatch { .. }
            | Self::Unrepresentable { .. } => invalid(vec![violation(field, message)]),
            Self::DocumentExists { .. } => with_reason(Code::AlreadyExists, message, "DOCUMENT_EXISTS"),
            Self::Invalid(invalid) => invalid.into_status(field),
            Self::NoEmbedder => with_reason(Code::FailedPrecondition, message, "NO_EMBEDDER"),
            Self::Memory(error) => error.into_status(field),
            Self::Runtime(error) => error.into_status(field),
            _ => internal(&message),
        }
    }
}

/// A field and what is wrong with it.
pub(crate) fn violation(field: impl Into<String>, description: impl Into<String>) -> FieldViolation {
    FieldViolation::new(field, description)
}

/// `INVALID_ARGUMENT`; the message tells the first violation, the details tell all.
pub(crate) fn invalid(violations: Vec<FieldViolation>) -> Status {
    let message =
        violations.first().map_or_else(String::new, |first| format!("invalid {}: {}", first.field, first.description));
    let mut details = ErrorDetails::with_bad_request(violations);
    details.set_error_info("INVALID_ARGUMENT", DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// `RESOURCE_EXHAUSTED` for now: the same request may be accepted a little later.
pub(crate) fn overloaded(message: &str, reason: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// UNAVAILABLE: the server is closing.
pub(crate) fn shutting_down() -> Status {
    let message = "the server is shutting down; try again when it is back (what was acknowledged is kept)";
    with_reason(Code::Unavailable, message, "SHUTTING_DOWN")
}

/// UNAUTHENTICATED.
pub(crate) fn unauthenticated(message: &str) -> Status {
    with_reason(Code::Unauthenticated, message, "UNAUTHENTICATED")
}

/// INTERNAL: the server's own fault. `what` goes to the log only.
pub(crate) fn internal(what: &str) -> Status {
    tracing::error!("internal error: {what}");
    with_reason(Code::Internal, "the server failed to do this; its log says why", "INTERNAL")
}

/// A status with a reason that programs can match on, and the memory that it is about.
fn about_memory(code: Code, message: impl Into<String>, reason: &str, memory: String) -> Status {
    let metadata = HashMap::from([("memory".to_owned(), memory)]);
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// A status with a reason that programs can match on.
pub(crate) fn with_reason(code: Code, message: impl Into<String>, reason: &str) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

#[cfg(test)]
mod tests {
    use mnemon_memory::Fingerprint;

    use super::*;

    #[test]
    fn both_fingerprints_are_named() {
        let (stored, given) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let status = MemoryError::FingerprintMismatch { memory: "m".into(), stored, given }.into_status("");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(&stored.to_string()) && status.message().contains(&given.to_string()));
        assert_eq!(status.get_details_error_info().unwrap().reason, "FINGERPRINT_MISMATCH");
    }

    #[test]
    fn a_text_is_blamed_on_its_field() {
        let wrapped = EncoderError::Runtime(RuntimeError::PromptTooLong { tokens: 9, limit: 8 });
        let status = wrapped.into_status("query");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "query");
    }

    #[test]
    fn a_quota_tells_what_is_full() {
        let (owner, advice) = ("memory 'm'".to_owned(), "delete documents".to_owned());
        let error = StoreError::Quota { owner, what: "tokens", limit: 10, held: 9, growth: 2, advice };
        let status = EncoderError::Memory(error.into()).into_status("text");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("at most 10 tokens"), "{}", status.message());
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["limit"].as_str()), ("QUOTA", "10"));
    }

    #[test]
    fn own_faults_are_not_told() {
        let status = StoreError::Catalog("/secret/path".into()).into_status("");
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
    }
}
