//! Diagnostics for the host: nothing is written unless it asks, and then only
//! to its own function.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// How much a message matters. The numbers are those of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    Error = 1,
    Warning = 2,
    Info = 3,
    Debug = 4,
}

/// Receives messages, from any thread.
pub type Receiver = Arc<dyn Fn(Level, &str) + Send + Sync>;

static RECEIVER: RwLock<Option<(Level, Receiver)>> = RwLock::new(None);

/// Sends messages up to `level` to `receiver`; `None` turns them off.
pub fn set(receiver: Option<(Level, Receiver)>) {
    *RECEIVER.write().unwrap_or_else(PoisonError::into_inner) = receiver;
}

pub(crate) fn error(message: fmt::Arguments<'_>) {
    send(Level::Error, message);
}

pub(crate) fn info(message: fmt::Arguments<'_>) {
    send(Level::Info, message);
}

fn send(level: Level, message: fmt::Arguments<'_>) {
    let receiver = {
        let current = RECEIVER.read().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            Some((up_to, receiver)) if level <= *up_to => receiver.clone(),
            _ => return,
        }
    };
    receiver(level, &message.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn messages_up_to_the_level_arrive() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let list = heard.clone();
        let receiver: Receiver = Arc::new(move |_, text| {
            if text.starts_with("log test") {
                list.lock().expect("not poisoned").push(text.to_owned());
            }
        });
        set(Some((Level::Info, receiver)));
        info(format_args!("log test {}", 1));
        send(Level::Debug, format_args!("log test 2"));
        set(None);
        info(format_args!("log test 3"));
        assert_eq!(*heard.lock().expect("not poisoned"), ["log test 1"]);
    }
}
