//! [`PressureWatch`] on Apple platforms: libdispatch's reports of memory pressure.

use std::ffi::{c_char, c_void};
use std::ptr;

use super::PressureLevel;
use crate::error::{Error, Result};
use crate::panics;

type Object = *mut c_void;
type Function = extern "C" fn(*mut c_void);

/// Bits of a source's data, as in <dispatch/source.h>.
const NORMAL: usize = 0x01;
const WARNING: usize = 0x02;
const CRITICAL: usize = 0x04;

/// Marks the queues of watches.
static MARK: u8 = 0;

#[repr(C)]
struct SourceType {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    static _dispatch_source_type_memorypressure: SourceType;

    fn dispatch_queue_create(label: *const c_char, attributes: Object) -> Object;
    fn dispatch_queue_set_specific(
        queue: Object,
        key: *const c_void,
        context: *mut c_void,
        destructor: Option<Function>,
    );
    fn dispatch_get_specific(key: *const c_void) -> *mut c_void;
    fn dispatch_sync_f(queue: Object, context: *mut c_void, work: Function);
    fn dispatch_source_create(
        kind: *const SourceType,
        handle: usize,
        mask: usize,
        queue: Object,
    ) -> Object;
    fn dispatch_source_get_data(source: Object) -> usize;
    fn dispatch_source_set_event_handler_f(source: Object, handler: Function);
    fn dispatch_source_set_cancel_handler_f(source: Object, handler: Function);
    fn dispatch_source_cancel(source: Object);
    fn dispatch_set_context(object: Object, context: *mut c_void);
    fn dispatch_resume(object: Object);
    fn dispatch_release(object: Object);
}

/// Tells of changes of the level for as long as it lives.
pub struct PressureWatch {
    source: Object,
    queue: Object,
}

// SAFETY: objects of libdispatch may be used and released on any thread.
unsafe impl Send for PressureWatch {}

/// What the source's functions get.
struct Watched {
    source: Object,
    changed: Box<dyn Fn(PressureLevel) + Send>,
}

impl PressureWatch {
    /// Calls `changed` on a queue of its own.
    pub fn start(changed: impl Fn(PressureLevel) + Send + 'static) -> Result<PressureWatch> {
        let key = (&raw const MARK).cast();
        // SAFETY: the arguments are what <dispatch/queue.h> and <dispatch/source.h>
        // ask for. The source owns `watched` until it was cancelled.
        unsafe {
            let queue = dispatch_queue_create(c"umrt-pressure".as_ptr(), ptr::null_mut());
            dispatch_queue_set_specific(queue, key, key.cast_mut(), None);
            let kind = &raw const _dispatch_source_type_memorypressure;
            let source = dispatch_source_create(kind, 0, NORMAL | WARNING | CRITICAL, queue);
            if source.is_null() {
                dispatch_release(queue);
                return Err(Error::unsupported(
                    "the system does not report memory pressure to this process; tell umrt of \
                     it with umrt_memory_pressure_notify",
                ));
            }
            let changed = Box::new(changed);
            let watched = Box::new(Watched { source, changed });
            dispatch_set_context(source, Box::into_raw(watched).cast());
            dispatch_source_set_event_handler_f(source, report);
            dispatch_source_set_cancel_handler_f(source, forget);
            dispatch_resume(source);
            Ok(PressureWatch { source, queue })
        }
    }
}

impl Drop for PressureWatch {
    /// Afterwards `changed` is not called any more, and if this is not a call of it,
    /// none is under way.
    fn drop(&mut self) {
        // SAFETY: `start` made both, and releases neither.
        unsafe {
            dispatch_source_cancel(self.source);
            if dispatch_get_specific((&raw const MARK).cast()).is_null() {
                dispatch_sync_f(self.queue, ptr::null_mut(), nothing);
            }
            dispatch_release(self.source);
            dispatch_release(self.queue);
        }
    }
}

extern "C" fn report(watched: *mut c_void) {
    // SAFETY: the source's context, which it owns until `forget`, and that runs on
    // the same queue, so not at the same time.
    let watched: &Watched = unsafe { &*watched.cast() };
    // SAFETY: the source that is reporting.
    let data = unsafe { dispatch_source_get_data(watched.source) };
    let level = if data & CRITICAL != 0 {
        PressureLevel::Critical
    } else if data & WARNING != 0 {
        PressureLevel::Warning
    } else {
        PressureLevel::Normal
    };
    // A panic in the host's function has nobody to go to.
    let _ = panics::catch(|| (watched.changed)(level));
}

extern "C" fn forget(watched: *mut c_void) {
    // SAFETY: made by `start`; a cancelled source calls this once and nothing after.
    drop(unsafe { Box::<Watched>::from_raw(watched.cast()) });
}

extern "C" fn nothing(_: *mut c_void) {}
