//! What memory there is, and who uses it.
//!
//! - `machine`: what the machine and its limits leave for models
//! - `limits`, `cgroup`: resource limits and control groups
//! - `budget`: what models and contexts were promised of it; `demand`: how much one
//!   needs; `snapshot`: whether it would fit
//! - `gpus`: the same of the memory that GPUs have for themselves
//! - `plan`: how much a model takes, by its numbers
//! - `probe`: whether the system has so much to give now
//! - `emergency`: small pieces when it has none
//! - `bounded`: calls that may hold so much and no more
//! - `process`: what the operating system says of this process
//! - `pressure`: how much the system stalls for want of memory
//! - `ledger`: what umrt itself holds, by category

mod bounded;
mod budget;
mod cgroup;
mod demand;
mod emergency;
mod gpus;
mod ledger;
mod limits;
mod machine;
mod plan;
mod pressure;
mod probe;
mod process;
mod snapshot;

pub use bounded::{Bounded, Bounds, run_bounded};
pub use budget::{Budget, Reservation, budget, usable};
pub use demand::{Demand, Mebibytes};
pub use emergency::{EmergencyAllocator, ensure_small_pieces};
pub use ledger::{Category, Entry, Ledger, ledger};
pub use machine::{Bound, Share, Usable};
pub use plan::{KV_BLOCK_TOKENS, Numbers, NumbersPlan, largest};
pub use pressure::{Pressure, PressureLevel, PressureWatch, pressure};
pub use probe::probe;
pub use process::{ProcessMemory, process_memory, return_free_heap};
pub use snapshot::{Settings, Shortage, Snapshot};
