//! The one error type of the crate: a [`Status`] that crosses the C boundary as
//! a number, and a message that says what happened, where, and what to do.

use std::fmt;
use std::path::Path;

/// What kind of failure it was. The numbers are part of the C ABI and frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    Ok = 0,
    InvalidArgument = 1,
    NotFound = 2,
    Io = 3,
    Format = 4,
    Unsupported = 5,
    OutOfMemory = 6,
    OverBudget = 7,
    NoSpace = 8,
    Busy = 9,
    Cancelled = 10,
    Backend = 11,
    Panic = 12,
    Internal = 13,
    DeadlineExceeded = 14,
}

impl Status {
    pub const ALL: [Status; 15] = [
        Status::Ok,
        Status::InvalidArgument,
        Status::NotFound,
        Status::Io,
        Status::Format,
        Status::Unsupported,
        Status::OutOfMemory,
        Status::OverBudget,
        Status::NoSpace,
        Status::Busy,
        Status::Cancelled,
        Status::Backend,
        Status::Panic,
        Status::Internal,
        Status::DeadlineExceeded,
    ];

    pub fn from_code(code: i32) -> Option<Status> {
        Status::ALL
            .into_iter()
            .find(|status| *status as i32 == code)
    }
}

/// A failure: its kind, and one sentence for a person.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Error {
    status: Status,
    message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $status:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Status::$status, message)
        })*
    };
}

impl Error {
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    constructors! {
        /// The caller broke a documented rule.
        invalid => InvalidArgument,
        /// A path, name or handle that isn't there.
        not_found => NotFound,
        /// A malformed checkpoint, tokenizer or template.
        format => Format,
        /// Well-formed, but not something this build can do.
        unsupported => Unsupported,
        over_budget => OverBudget,
        out_of_memory => OutOfMemory,
        /// A context or a caller's buffer is full.
        no_space => NoSpace,
        busy => Busy,
        cancelled => Cancelled,
        deadline_exceeded => DeadlineExceeded,
        /// MLX refused or failed.
        backend => Backend,
        internal => Internal,
    }

    /// An operating-system error about `path`; a missing file is `NotFound`. What was
    /// an error of ours before it went through `std::io` keeps its status.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let status = match (Error::within(error), error.kind()) {
            (Some(own), _) => own.status,
            (None, std::io::ErrorKind::NotFound) => Status::NotFound,
            (None, std::io::ErrorKind::OutOfMemory) => Status::OutOfMemory,
            (None, _) => Status::Io,
        };
        Self::new(
            status,
            format!("cannot {action} {}: {error}", path.display()),
        )
    }

    /// The error of ours that an error of `std::io` carries.
    pub fn within(error: &std::io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    pub fn status(&self) -> Status {
        self.status
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says where it happened, in front of what happened.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// `result.at("model.safetensors")?` puts the place in front of the message.
pub trait ResultExt<T> {
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.context(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_code_round_trips() {
        for (index, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as i32, index as i32, "codes are dense and frozen");
            assert_eq!(Status::from_code(index as i32), Some(status));
        }
        assert_eq!(Status::from_code(Status::ALL.len() as i32), None);
    }

    #[test]
    fn an_error_keeps_its_status_on_its_way_through_io() {
        let outer = std::io::Error::other(Error::backend("no such kernel"));
        let error = Error::io("write", Path::new("a.umrt"), &outer);
        assert_eq!(error.status(), Status::Backend);
        assert_eq!(error.message(), "cannot write a.umrt: no such kernel");
    }

    #[test]
    fn context_is_put_in_front() {
        let error = Error::format("header is 9 bytes long").context("a.safetensors");
        assert_eq!(error.to_string(), "a.safetensors: header is 9 bytes long");
        assert_eq!(error.status(), Status::Format);
    }
}
