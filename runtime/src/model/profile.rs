//! The profile of a model: read, and checked against it.

use std::path::Path;

use super::Model;
use crate::error::{Error, Result};
use crate::profile::Profile;

/// Most search heads, passages and neighbours that a file may name.
const HEADS_MAX: usize = 64;
const PASSAGES_MAX: usize = 64;
const NEIGHBOURS_MAX: usize = 16;

impl Model {
    /// Reads a profile and checks that it is one of this model.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`] for what is not a profile, [`Error::Profile`] for one of another version or model.
    pub fn read_profile(&self, path: &Path) -> Result<Profile> {
        let profile = Profile::read(path)?;
        self.check_profile(&profile)?;
        Ok(profile)
    }

    /// Refuses a profile of another model, and numbers that do not fit this one.
    pub fn check_profile(&self, profile: &Profile) -> Result<()> {
        let wrong = |why: String| Err(Error::Profile { why });
        let config = self.config();
        if profile.model != self.base_fingerprint() {
            return wrong(format!(
                "it was made for the model '{}' ({}), this one is '{}' ({}); make one for this model",
                profile.model_name,
                profile.model,
                self.name(),
                self.base_fingerprint()
            ));
        }
        let ascending = profile.kv_layers.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || profile.kv_layers.last().is_some_and(|layer| *layer as usize >= config.layers) {
            return wrong(format!("kv_layers {:?}; ascending layers below {}", profile.kv_layers, config.layers));
        }
        if !(1..=HEADS_MAX).contains(&profile.search.len()) {
            return wrong(format!("{} search heads; 1 to {HEADS_MAX}", profile.search.len()));
        }
        for head in &profile.search {
            let known = (head.query.layer as usize) < config.layers && (head.query.head as usize) < config.heads;
            let finite =
                head.mean.iter().all(|value| value.is_finite()) && head.weight.is_finite() && head.weight > 0.0;
            if !known || !finite || head.mean.len() != config.head_dim {
                return wrong(format!("the search head {:?} does not fit the model", head.query));
            }
        }
        let weights = [profile.attention_weight, profile.lexical_weight];
        if !weights.iter().all(|weight| (0.0..=1.0).contains(weight)) || weights.iter().sum::<f32>() <= 0.0 {
            return wrong(format!("attention_weight and lexical_weight {weights:?}; 0 to 1, and not both 0"));
        }
        if !(1..=PASSAGES_MAX).contains(&profile.passages) || profile.neighbours > NEIGHBOURS_MAX {
            return wrong(format!(
                "{} passages with {} neighbours; 1 to {PASSAGES_MAX} with 0 to {NEIGHBOURS_MAX}",
                profile.passages, profile.neighbours
            ));
        }
        Ok(())
    }
}
