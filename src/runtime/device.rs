//! [`DeviceSummary`]: what a device is, for people, and what models may use of it.

use super::admission::usable_of_gpu;
use crate::error::Result;
use crate::memory;
use crate::mlx::{self, Device, device_facts};

#[derive(Clone, Debug)]
pub struct DeviceSummary {
    pub device: Device,
    /// With the version of MLX.
    pub name: String,
    /// Of its memory: the machine's, unless a GPU has its own.
    pub total_bytes: usize,
    /// Of a GPU's own memory.
    pub free_bytes: Option<usize>,
    /// By models.
    pub usable_bytes: usize,
}

pub fn device_summary(device: Device) -> Result<DeviceSummary> {
    let facts = device_facts(device)?;
    let of_machine = memory::usable();
    let name = facts.name.unwrap_or_else(|| match device {
        Device::Cpu => "CPU".to_owned(),
        Device::Gpu(_) => "GPU".to_owned(),
    });
    Ok(DeviceSummary {
        device,
        name: format!("{name} (MLX {})", mlx::version()?),
        total_bytes: match device.has_own_memory() {
            true => facts.total_bytes.unwrap_or(0),
            false => of_machine.physical_bytes,
        },
        free_bytes: facts.free_bytes.filter(|_| device.has_own_memory()),
        usable_bytes: usable_of_gpu(device)?.unwrap_or(of_machine.usable_bytes),
    })
}
