//! How a command ends: exit codes, and errors as people or programs read them.

use std::io::Write;
use std::{fmt, io};

use mnemon_client::{Code, Error as ClientError};
use mnemon_memory_store::Error as StoreError;
use mnemon_runtime::Error as ModelError;
use mnemon_server::Error as ServerError;
use serde_json::{Value, json};

use crate::render::{Ink, Ui, harmless};

/// What the process returns; the table of `mnemon --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It failed for a reason without a code of its own.
    Failure = 1,
    /// The command line, a file or a value is not usable as it is.
    Usage = 2,
    /// No such memory or document.
    NotFound = 3,
    /// It exists already, is being written by somebody else, or was made by another model.
    Conflict = 4,
    /// The server cannot be reached, or is shutting down.
    Unreachable = 5,
    /// A limit was met, the queue is full, or no space is left.
    Refused = 6,
    /// Stored bytes are damaged.
    Damaged = 7,
    /// The token is missing or does not allow this.
    Denied = 8,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

/// Exit codes as `--help` shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed
    2  wrong usage, or input that cannot be used (missing, empty or not UTF-8)
    3  no such memory or document
    4  exists already, is in use, or belongs to another model
    5  the server cannot be reached
    6  refused: a limit, a full queue, or no space left
    7  stored data is damaged
    8  the token is missing or not allowed to do this
  130  interrupted by Ctrl-C";

impl Exit {
    /// Name of the code in JSON errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Exit::Failure => "failure",
            Exit::Usage => "usage",
            Exit::NotFound => "not_found",
            Exit::Conflict => "conflict",
            Exit::Unreachable => "unreachable",
            Exit::Refused => "refused",
            Exit::Damaged => "damaged",
            Exit::Denied => "denied",
            Exit::Interrupted => "interrupted",
        }
    }
}

/// An error that knows its exit code and, often, what to do about it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
    fields: Vec<(String, String)>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, fields: Vec::new() }
    }

    /// Input that cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what the user can do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the fields of a request that the server objected to, each with its reason.
    #[must_use]
    pub(crate) fn fields(mut self, fields: Vec<(String, String)>) -> Self {
        self.fields = fields;
        self
    }

    /// The JSON form.
    pub(crate) fn as_json(&self) -> Value {
        let mut error =
            json!({"code": self.exit.name(), "exit": self.exit as u8, "message": self.message, "hint": self.hint});
        let fields = self.fields.iter().map(|(field, reason)| json!({"field": field, "reason": reason}));
        error["fields"] = fields.collect();
        json!({ "error": error })
    }

    fn write_for_people(&self, err: &mut impl Write, ui: &Ui) -> io::Result<()> {
        ui.paragraph_err(err, Ink::Bad, "error:", &self.message)?;
        // The message often says the same as its only field.
        for (field, reason) in self.fields.iter().filter(|(_, reason)| !self.message.contains(reason.as_str())) {
            writeln!(err, "  {field}: {}", harmless(reason))?;
        }
        if let Some(hint) = &self.hint {
            ui.paragraph_err(err, Ink::Key, "try:", hint)?;
        }
        Ok(())
    }
}

impl From<&ClientError> for Failure {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Options { .. } | ClientError::File { .. } => Self::usage(error.to_string()),
            ClientError::Connect { endpoint, why } => {
                Self::new(Exit::Unreachable, format!("no server answers at {endpoint}: {why}"))
                    .hint("start one with `mnemon serve`, or name another with --server URL")
            }
            // A server gives a reason with every error; one without comes from this end of the connection.
            ClientError::Status { code: Code::Unknown | Code::Internal | Code::Cancelled, message, reason, .. }
                if reason.is_empty() =>
            {
                Self::new(Exit::Unreachable, format!("the connection to the server was lost ({message})"))
            }
            ClientError::Status { code, message, reason, metadata, violations } => {
                let fields = violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect();
                let failure = Self::new(exit_of(*code), message.clone()).fields(fields);
                match advice(reason, metadata.get("memory").map_or("NAME", String::as_str)) {
                    Some(advice) => failure.hint(advice),
                    None => failure,
                }
            }
            // Text that turned out not to be usable while it was read.
            ClientError::Source(source) => match source.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
                Some(failure) => failure.clone(),
                None => Self::usage(error.to_string()),
            },
            ClientError::EndedEarly => Self::new(Exit::Unreachable, error.to_string()),
            _ => Self::new(Exit::Failure, error.to_string()),
        }
    }
}

impl From<&ServerError> for Failure {
    /// Why the server of `serve` or `demo` did not start or go on.
    fn from(error: &ServerError) -> Self {
        let exit = match error {
            ServerError::Settings { .. }
            | ServerError::InsecureRemote { .. }
            | ServerError::File { .. }
            | ServerError::Tls { .. } => Exit::Usage,
            ServerError::PortInUse { .. } | ServerError::Listen { .. } => Exit::Conflict,
            ServerError::Store(error) => match error {
                StoreError::InUse { .. } => Exit::Conflict,
                StoreError::Limit { .. } | StoreError::Quota { .. } | StoreError::NoSpace { .. } => Exit::Refused,
                StoreError::Damaged { .. } | StoreError::UnknownFormat { .. } => Exit::Damaged,
                _ => Exit::Failure,
            },
            ServerError::RemoteStore { .. } => Exit::Unreachable,
            ServerError::Model(error) => match error {
                ModelError::Truncated { .. } | ModelError::Damaged { .. } => Exit::Damaged,
                ModelError::UnknownSource { .. }
                | ModelError::MissingFile { .. }
                | ModelError::UnsupportedArchitecture { .. }
                | ModelError::UnsupportedDtype { .. }
                | ModelError::Config { .. } => Exit::Usage,
                _ => Exit::Failure,
            },
            _ => Exit::Failure,
        };
        let failure = Self::new(exit, error.to_string());
        let reason = match error {
            ServerError::Store(StoreError::Damaged { .. }) => "DAMAGED",
            ServerError::Model(ModelError::Profile { .. }) => "PROFILE",
            ServerError::PortInUse { .. } => "PORT_IN_USE",
            _ => "",
        };
        match advice(reason, "NAME") {
            Some(advice) => failure.hint(advice),
            None => failure,
        }
    }
}

/// What to do about an error, in commands of this program: servers and libraries do not know them. `reason` is that of the
/// server's `ErrorInfo`, `memory` the memory that it is about.
fn advice(reason: &str, memory: &str) -> Option<String> {
    let memory = harmless(memory);
    let advice = match reason {
        "UNAUTHENTICATED" => "give the server's token in MNEMON_TOKEN, or with --token".into(),
        "MEMORY_NOT_FOUND" => format!("create it with `mnemon memory create {memory}`; `mnemon memory list` shows all"),
        "FINGERPRINT_MISMATCH" => format!(
            "let this model read its documents again: `mnemon reencode {memory} --replace`, or `--into ANOTHER-NAME`"
        ),
        "QUOTA" => format!(
            "raise the limits of a memory with `mnemon memory update {memory}` (--max-tokens N, --max-bytes BYTES); `mnemon compact` frees space"
        ),
        "DAMAGED" => {
            "stop the server and run `mnemon check`, which tells all; with --repair it keeps what can be saved".into()
        }
        "NO_EMBEDDER" => "start the server with --embedder DIR".into(),
        "PROFILE" => "make a profile of this model with `mnemon model profile MODEL`".into(),
        "PORT_IN_USE" => "choose another port with --listen".into(),
        _ => return None,
    };
    Some(advice)
}

/// The exit code for a status of the server.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Exit::Conflict,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::ResourceExhausted => Exit::Refused,
        Code::DataLoss => Exit::Damaged,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        _ => Exit::Failure,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Writes the error to standard error and returns the code to exit with: `None` if there is nothing to
/// complain about, as when the reader of our output went away.
pub(crate) fn report(error: &anyhow::Error, ui: &Ui) -> Option<Exit> {
    if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return None;
    }
    let translated;
    let failure = match (error.downcast_ref::<Failure>(), error.downcast_ref::<ClientError>()) {
        (Some(failure), _) => failure,
        (None, Some(error)) => {
            translated = Failure::from(error);
            &translated
        }
        (None, None) => {
            translated = Failure::new(Exit::Failure, format!("{error:#}"));
            &translated
        }
    };
    let mut err = io::stderr().lock();
    // Without standard error there is no place to report to.
    let _ = if ui.json() { writeln!(err, "{}", failure.as_json()) } else { failure.write_for_people(&mut err, ui) };
    Some(failure.exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_servers_come_with_commands() {
        let error = |code, reason: &str| ClientError::Status {
            code,
            message: "it failed".into(),
            reason: reason.into(),
            metadata: [("memory".to_owned(), "tales".to_owned())].into(),
            violations: Vec::new(),
        };
        for (code, reason, command) in [
            (Code::NotFound, "MEMORY_NOT_FOUND", "mnemon memory create tales"),
            (Code::FailedPrecondition, "FINGERPRINT_MISMATCH", "mnemon reencode tales --replace"),
            (Code::ResourceExhausted, "QUOTA", "--max-tokens"),
            (Code::DataLoss, "DAMAGED", "--repair"),
            (Code::Unauthenticated, "UNAUTHENTICATED", "MNEMON_TOKEN"),
            (Code::FailedPrecondition, "NO_EMBEDDER", "--embedder"),
        ] {
            let failure = Failure::from(&error(code, reason));
            assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains(command)), "{reason}: {:?}", failure.hint);
        }
        assert_eq!(Failure::from(&error(Code::Aborted, "DOCUMENT_BUSY")).hint, None);
    }
}
