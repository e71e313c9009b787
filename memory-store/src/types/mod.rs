//! Plain data with its bounds: what a store is given and what it tells.

pub(crate) mod info;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod options;
