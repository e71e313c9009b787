//! The file of a profile: JSON, versioned, checked against the model that it is used with (`docs/format.md`).

use std::{fs, path::Path};

use super::Profile;
use crate::{Error, Model, Result};

/// Version that is written and read.
pub const VERSION: u32 = 1;
/// Longest file that is read.
const BYTES_MAX: u64 = 16 << 20;
/// Most search heads, passages and neighbours that a file may name.
const HEADS_MAX: usize = 64;
const PASSAGES_MAX: usize = 64;
const NEIGHBOURS_MAX: usize = 16;

impl Profile {
    /// Reads a file and checks that it belongs to `model`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`] for what is not a profile, [`Error::Profile`] for one of another version or model.
    pub fn read(path: &Path, model: &Model) -> Result<Self> {
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
        let profile: Self = serde_json::from_str(&text)
            .map_err(|error| Error::Damaged { path: path.into(), why: error.to_string() })?;
        profile.validate(model)?;
        Ok(profile)
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

    /// Refuses a profile of another model, and numbers that do not fit this one.
    pub fn validate(&self, model: &Model) -> Result<()> {
        let wrong = |why: String| Err(Error::Profile { why });
        let config = model.config();
        if self.model != model.base_fingerprint() {
            return wrong(format!(
                "it was made for the model '{}' ({}), this one is '{}' ({}); make one with 'mnemon model profile'",
                self.model_name,
                self.model,
                model.name(),
                model.base_fingerprint()
            ));
        }
        let ascending = self.kv_layers.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || self.kv_layers.last().is_some_and(|layer| *layer as usize >= config.layers) {
            return wrong(format!("kv_layers {:?}; ascending layers below {}", self.kv_layers, config.layers));
        }
        if !(1..=HEADS_MAX).contains(&self.search.len()) {
            return wrong(format!("{} search heads; 1 to {HEADS_MAX}", self.search.len()));
        }
        for head in &self.search {
            let known = (head.query.layer as usize) < config.layers && (head.query.head as usize) < config.heads;
            let finite =
                head.mean.iter().all(|value| value.is_finite()) && head.weight.is_finite() && head.weight > 0.0;
            if !known || !finite || head.mean.len() != config.head_dim {
                return wrong(format!("the search head {:?} does not fit the model", head.query));
            }
        }
        let weights = [self.attention_weight, self.lexical_weight];
        if !weights.iter().all(|weight| (0.0..=1.0).contains(weight)) || weights.iter().sum::<f32>() <= 0.0 {
            return wrong(format!("attention_weight and lexical_weight {weights:?}; 0 to 1, and not both 0"));
        }
        if !(1..=PASSAGES_MAX).contains(&self.passages) || self.neighbours > NEIGHBOURS_MAX {
            return wrong(format!(
                "{} passages with {} neighbours; 1 to {PASSAGES_MAX} with 0 to {NEIGHBOURS_MAX}",
                self.passages, self.neighbours
            ));
        }
        Ok(())
    }
}

/// A fingerprint as 64 hexadecimal digits.
pub(super) mod hex {
    use mnemon_memory_store::Fingerprint;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::profile) fn serialize<S: Serializer>(value: &Fingerprint, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&value.to_hex())
    }

    pub(in crate::profile) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
