//! The file of a profile: JSON, versioned, checked against the model that it is used with (`docs/format.md`).

use std::fs;
use std::path::Path;

use super::Profile;
use crate::error::{Error, Result};

/// Version that is written and read.
pub const VERSION: u32 = 1;
/// Longest file that is read.
const BYTES_MAX: u64 = 16 << 20;

impl Profile {
    /// Reads a file. Whether it belongs to a model [`Model::check_profile`](crate::Model::check_profile) tells;
    /// [`Model::read_profile`](crate::Model::read_profile) does both.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`] for what is not a profile, [`Error::Profile`] for one of another version.
    pub fn read(path: &Path) -> Result<Self> {
        let read_error = |source| Error::Read { path: path.into(), source };
        let length = fs::metadata(path).map_err(read_error)?.len();
        if length > BYTES_MAX {
            let why = format!("{length} bytes; a profile has at most {BYTES_MAX}");
            return Err(Error::Damaged { path: path.into(), why });
        }
        let text = fs::read_to_string(path).map_err(read_error)?;
        let version = serde_json::from_str::<serde_json::Value>(&text)
            .map_err(|error| Error::Damaged { path: path.into(), why: error.to_string() })?
            .get("version")
            .and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            let version = version.map_or("none".into(), |version| version.to_string());
            let why = format!("{} has version {version}; this program reads version {VERSION}", path.display());
            return Err(Error::Profile { why });
        }
        serde_json::from_str(&text).map_err(|error| Error::Damaged { path: path.into(), why: error.to_string() })
    }

    /// Writes a file as a whole: a reader sees all of it or none.
    pub fn write(&self, path: &Path) -> Result<()> {
        let write_error = |source| Error::Write { path: path.into(), source };
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Profile { why: format!("it cannot be written: {error}") })?;
        text.push('\n');
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(write_error)?;
        }
        let unfinished = path.with_extension("json.tmp");
        fs::write(&unfinished, text).map_err(write_error)?;
        fs::rename(&unfinished, path).map_err(write_error)
    }
}

/// A fingerprint as 64 hexadecimal digits.
pub(super) mod hex {
    use mnemon_memory::Fingerprint;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::profile) fn serialize<S: Serializer>(value: &Fingerprint, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&value.to_hex())
    }

    pub(in crate::profile) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
