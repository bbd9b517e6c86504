//! What memory there is, and who uses it.
//!
//! - `machine`: what the machine and its limits leave for models
//! - `process`: what the operating system says of this process
//! - `pressure`: how much the system stalls for want of memory
//! - `ledger`: what umrt itself holds, by category

mod ledger;
mod machine;
mod pressure;
mod process;

pub use ledger::{Category, Entry, Ledger, ledger};
pub use machine::{Bound, Usable, usable};
pub use pressure::{Pressure, PressureLevel, PressureWatch, pressure};
pub use process::{ProcessMemory, process_memory, return_free_heap};
