//! Rotary settings, in the old layout (`rope_theta`, `rope_scaling`) and the new one (`rope_parameters`).

use serde_json::{Map, Value};

use super::parse::Raw;
use super::{RopeConfig, RopeScaling, invalid};
use crate::error::Result;

pub(super) fn parse(raw: &Raw, max_position_embeddings: usize) -> Result<RopeConfig> {
    let given = |settings: &Option<Value>| settings.as_ref().is_some_and(|settings| !settings.is_null());
    let of = |settings: &Option<Value>| of(raw, settings.as_ref(), max_position_embeddings);
    if !given(&raw.rope_parameters) {
        return of(&raw.rope_scaling);
    }
    let parameters = of(&raw.rope_parameters)?;
    if raw.rope_theta.is_some_and(|theta| theta.to_bits() != parameters.theta.to_bits()) {
        return invalid("rope_theta", "rope_parameters has another; remove the one that is wrong");
    }
    if given(&raw.rope_scaling) && of(&raw.rope_scaling)?.scaling != parameters.scaling {
        return invalid("rope_scaling", "rope_parameters says something else; remove the one that is wrong");
    }
    Ok(parameters)
}

fn of(raw: &Raw, settings: Option<&Value>, max_position_embeddings: usize) -> Result<RopeConfig> {
    let empty = Map::new();
    let settings = match settings {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(settings)) => settings,
        Some(other) => return invalid("rope_parameters", format!("{other}; an object is needed")),
    };
    let settings = Settings(settings);
    let theta = settings.number("rope_theta")?.or(raw.rope_theta).unwrap_or(10_000.0);
    if !(theta > 1.0 && theta < 1e12) {
        return invalid("rope_theta", format!("{theta}; a number above 1 is needed"));
    }
    #[allow(clippy::float_cmp)] // exactly 1 means all
    if settings.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return invalid("partial_rotary_factor", "rotating a part of each head is not supported");
    }
    Ok(RopeConfig { theta, scaling: settings.scaling(max_position_embeddings)? })
}

struct Settings<'a>(&'a Map<String, Value>);

impl Settings<'_> {
    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() => Ok(Some(number)),
                _ => invalid(key, format!("{value}; a number is needed")),
            },
        }
    }

    /// A number that must be there and positive.
    fn positive(&self, key: &str) -> Result<f64> {
        match self.number(key)? {
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => invalid(key, format!("{number}; a positive number is needed")),
            None => invalid(key, "missing; this rope type needs it"),
        }
    }

    fn factor(&self) -> Result<f64> {
        let factor = self.positive("factor")?;
        if factor < 1.0 { invalid("factor", format!("{factor}; at least 1 is needed")) } else { Ok(factor) }
    }

    fn original(&self, max_position_embeddings: usize) -> Result<usize> {
        match self.number("original_max_position_embeddings")? {
            None => Ok(max_position_embeddings),
            Some(number) if (1.0..1e9).contains(&number) => Ok(number as usize),
            Some(number) => invalid("original_max_position_embeddings", format!("{number} is out of range")),
        }
    }

    fn scaling(&self, max_position_embeddings: usize) -> Result<RopeScaling> {
        let given = |key: &str| self.0.get(key).filter(|value| !value.is_null());
        let kind = match given("rope_type").or_else(|| given("type")) {
            None if self.0.values().any(Value::is_object) => {
                return invalid("rope_parameters", "different settings for different layers are not supported");
            }
            None => "default",
            Some(Value::String(kind)) => kind,
            Some(other) => return invalid("rope_type", format!("{other}; a name is needed")),
        };
        match kind {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: self.factor()? }),
            "ntk" => Ok(RopeScaling::Ntk { factor: self.factor()? }),
            "dynamic" => Ok(RopeScaling::Dynamic { factor: self.factor()?, original: max_position_embeddings }),
            "yarn" => self.yarn(max_position_embeddings),
            "llama3" => {
                let (low, high) = (self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
                if high <= low {
                    return invalid("high_freq_factor", format!("{high} must exceed low_freq_factor {low}"));
                }
                Ok(RopeScaling::Llama3 {
                    factor: self.factor()?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original: self.original(max_position_embeddings)?,
                })
            }
            other => {
                invalid("rope_type", format!("'{other}'; default, linear, ntk, dynamic, yarn and llama3 are supported"))
            }
        }
    }

    fn yarn(&self, max_position_embeddings: usize) -> Result<RopeScaling> {
        let original = self.original(max_position_embeddings)?;
        let factor = match self.number("factor")? {
            Some(_) => self.factor()?,
            None => (max_position_embeddings as f64 / original as f64).max(1.0),
        };
        // Section 3.4 of the paper; `mscale` and `mscale_all_dim` are DeepSeek's addition.
        let magnitude = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let nonzero = |key| Ok::<_, crate::error::Error>(self.number(key)?.filter(|number| *number != 0.0));
        let attention_factor = match (self.number("attention_factor")?, nonzero("mscale")?, nonzero("mscale_all_dim")?)
        {
            (Some(factor), _, _) => factor,
            (None, Some(mscale), Some(all)) => magnitude(mscale) / magnitude(all),
            (None, _, _) => magnitude(1.0),
        };
        if !(attention_factor > 0.0 && attention_factor < 1e3) {
            return invalid("attention_factor", format!("{attention_factor}; a positive number is needed"));
        }
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
            beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
            attention_factor,
            truncate: self.0.get("truncate").and_then(Value::as_bool).unwrap_or(true),
        })
    }
}
