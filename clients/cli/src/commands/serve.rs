//! `mnemon serve`: the server in this process.
use anyhow::Result;

use crate::args::Serve;
use crate::render::Ui;

pub(crate) async fn run(_args: Serve, _ui: &Ui) -> Result<()> {
    anyhow::bail!("not yet")
}
