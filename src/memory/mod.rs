//! What memory there is, and who uses it.
//!
//! - `machine`: what the machine and its limits leave for models
//! - `process`: what the operating system says of this process
//! - `ledger`: what umrt itself holds, by category

mod ledger;
mod machine;
mod process;

pub use ledger::{Category, Entry, Ledger, ledger};
pub use machine::{Bound, Usable, usable};
pub use process::{ProcessMemory, process_memory};
