//! [`Cancel`]: a flag that stops a running call from any thread, and a point in time that
//! does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::kernels::{Stop, StopCause};

/// Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    /// The same flag, and an end at `deadline`.
    pub fn or_at(&self, deadline: Instant) -> Cancel {
        Cancel {
            flag: self.flag.clone(),
            deadline: Some(deadline),
        }
    }

    pub fn trigger(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        self.flag.store(false, Ordering::Relaxed);
    }

    pub fn is_triggered(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// For those who look at it while they compute.
    pub(super) fn stop(&self) -> Stop {
        Stop::new(self.flag.clone(), self.deadline)
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure_not_stopped(&self.stop())
    }
}

pub(super) fn ensure_not_stopped(stop: &Stop) -> Result<()> {
    match stop.cause() {
        None => Ok(()),
        Some(StopCause::Cancelled) => Err(Error::cancelled("cancelled by the caller")),
        Some(StopCause::DeadlineExceeded) => Err(Error::deadline_exceeded(
            "the time that the call was given is over; give it a longer deadline, or less to do",
        )),
    }
}
