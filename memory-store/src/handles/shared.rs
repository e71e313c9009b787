//! What all handles of a store share.

use std::sync::Arc;

use crate::engine::Engine;
use crate::maintenance::seal::Sealer;

/// Lives until the last handle is dropped, which ends the sealing thread.
pub(crate) struct Shared {
    // Ends before the engine is dropped.
    pub(crate) sealer: Sealer,
    pub(crate) engine: Arc<Engine>,
}
