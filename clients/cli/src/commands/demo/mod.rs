//! `mnemon demo`
use anyhow::Result;

use crate::args::Demo;
use crate::render::Ui;

pub(crate) async fn run(_args: Demo, _ui: &Ui) -> Result<()> {
    anyhow::bail!("not yet")
}
