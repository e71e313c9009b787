//! Names of models of the hub.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// `ORG/NAME`, with `:FILE` for one GGUF file of many and `@REVISION` for a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `organisation/name`.
    pub id: String,
    /// Name of a GGUF file, or a part of it that no other has, such as `Q4_K_M`.
    pub file: Option<String>,
    /// Branch, tag or commit; `main` when `None`.
    pub revision: Option<String>,
}

impl HubName {
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl FromStr for HubName {
    type Err = Error;

    /// # Errors
    /// [`Error::UnknownSource`] for what is no such name, or is more likely a path: its first part is a folder here, or it names a file.
    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::UnknownSource { given: text.into() };
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (text, None),
        };
        let (id, file) = match name.split_once(':') {
            Some((id, file)) => (id, Some(file)),
            None => (name, None),
        };
        let plain = |part: &str| {
            let first = part.chars().next();
            first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let within = |path: &str| path.split('/').all(plain);
        let Some((organisation, model)) = id.split_once('/') else { return Err(unknown()) };
        let is_name = plain(organisation) && plain(model) && file.is_none_or(within) && revision.is_none_or(within);
        let is_path = Path::new(organisation).is_dir()
            || [".gguf", ".safetensors", ".json"].iter().any(|end| model.ends_with(end));
        if !is_name || is_path {
            return Err(unknown());
        }
        Ok(Self { id: id.into(), file: file.map(Into::into), revision: revision.map(Into::into) })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for text in ["Qwen/Qwen3-0.6B", "a/b@v1.0", "a/b:Q4_K_M", "a/b:sub/x-Q8_0.gguf@refs/pr/1"] {
            assert_eq!(text.parse::<HubName>().unwrap().to_string(), text);
        }
        // `src` is a folder here: a mistyped path.
        for text in [
            "",
            "name",
            "a/b/c",
            "../x",
            "/no/folder",
            "a/b@",
            "a/ b",
            "a/b:",
            "src/modl",
            "a/model.gguf",
            "./a/b",
            "a/b:../x",
            "a/b@/x",
        ] {
            assert!(matches!(text.parse::<HubName>(), Err(Error::UnknownSource { .. })), "{text}");
        }
    }
}
