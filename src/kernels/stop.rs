//! [`Stop`]: what is computed may have to end early. Pools look at it between pieces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Why a computation ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    Cancelled,
    DeadlineExceeded,
}

/// Tells one computation to end. Once anybody has noticed it stays so, although the
/// flag may be taken back: what was left out is missing.
#[derive(Debug)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    deadline: Option<Instant>,
    noticed: OnceLock<StopCause>,
}

impl Stop {
    pub fn new(flag: Arc<AtomicBool>, deadline: Option<Instant>) -> Stop {
        Stop {
            flag,
            deadline,
            noticed: OnceLock::new(),
        }
    }

    /// Why to end, if it is time to.
    pub fn cause(&self) -> Option<StopCause> {
        if let Some(noticed) = self.noticed.get() {
            return Some(*noticed);
        }
        let cause = self.cause_now()?;
        Some(*self.noticed.get_or_init(|| cause))
    }

    fn cause_now(&self) -> Option<StopCause> {
        if self.flag.load(Ordering::Relaxed) {
            return Some(StopCause::Cancelled);
        }
        let is_over = self.deadline.is_some_and(|end| Instant::now() >= end);
        is_over.then_some(StopCause::DeadlineExceeded)
    }

    pub fn is_set(&self) -> bool {
        self.cause().is_some()
    }
}

/// Where those who compute look for the stop of what is being computed.
#[derive(Clone, Debug, Default)]
pub struct StopPlace(Arc<Mutex<Option<Arc<Stop>>>>);

impl StopPlace {
    pub fn set(&self, stop: Option<Arc<Stop>>) {
        *self.lock() = stop;
    }

    pub fn get(&self) -> Option<Arc<Stop>> {
        self.lock().clone()
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().as_ref().is_some_and(|stop| stop.is_set())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Stop>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_noticed_stays_although_the_flag_is_taken_back() {
        let flag = Arc::new(AtomicBool::new(false));
        let stop = Stop::new(flag.clone(), None);
        assert!(!stop.is_set());
        flag.store(true, Ordering::Relaxed);
        assert!(stop.is_set());
        flag.store(false, Ordering::Relaxed);
        assert_eq!(stop.cause(), Some(StopCause::Cancelled));
    }

    #[test]
    fn the_first_cause_is_the_cause() {
        let flag = Arc::new(AtomicBool::new(false));
        let over = Stop::new(flag.clone(), Some(Instant::now()));
        assert_eq!(over.cause(), Some(StopCause::DeadlineExceeded));
        flag.store(true, Ordering::Relaxed);
        assert_eq!(over.cause(), Some(StopCause::DeadlineExceeded));
        let later = Instant::now() + Duration::from_secs(3600);
        let cancelled = Stop::new(flag, Some(later));
        assert_eq!(cancelled.cause(), Some(StopCause::Cancelled));
    }
}
