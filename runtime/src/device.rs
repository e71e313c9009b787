//! Choice of the device at start.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use mnemon_memory::Invalid;

use crate::error::{Error, Result};

/// Where a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device. `Auto` never fails; a GPU asked for by number that cannot be used is an error.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => match cuda(0) {
                Ok(device) => Ok(device),
                Err(why) => {
                    tracing::debug!(%why, "no GPU; computing on the CPU");
                    Ok(Device::Cpu)
                }
            },
            Self::Cuda(ordinal) => cuda(ordinal).map_err(|why| Error::Device { device: self.to_string(), why }),
        }
    }
}

/// Opens a GPU. The driver's loader may panic where there is no driver: that is a reason like any other.
fn cuda(ordinal: usize) -> std::result::Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no CUDA support (cargo feature 'cuda')".into());
    }
    match std::panic::catch_unwind(|| Device::new_cuda(ordinal)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the CUDA driver could not be loaded".into()),
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `cpu` or `cuda:N`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()).map(Self::Cuda).ok_or_else(|| {
                Error::Invalid(Invalid { what: "device", why: format!("'{text}'; auto, cpu or cuda:N") })
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
