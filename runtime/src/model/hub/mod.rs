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

use hf_hub::Cache;

pub(super) use self::pull::source;
pub use self::{
    cached::{CachedModel, cached, remove},
    name::HubName,
    pull::{Pulling, is_here, pull},
};

/// What a model in safetensors cannot do without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What many of them have.
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", "1_Pooling/config.json"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The cache that the hub's own tools use.
fn cache() -> Cache {
    match std::env::var_os("HF_HUB_CACHE") {
        Some(folder) if !folder.is_empty() => Cache::new(folder.into()),
        _ => Cache::from_env(),
    }
}
