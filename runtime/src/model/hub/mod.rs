//! Models of the Hugging Face hub, through its usual cache (`HF_HOME`).
//!
//! | module | |
//! |---|---|
//! | `name` | names as people write them: `ORG/NAME[:FILE][@REVISION]` |
//! | `pull` | downloading, with checksums |
//! | `cached` | what lies in the cache |

mod cached;
mod name;
mod pull;

pub(super) use self::pull::source;
pub use self::{
    cached::{CachedModel, cached, remove},
    name::HubName,
    pull::{Pulling, pull},
};

/// What a model in safetensors cannot do without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What many of them have.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
