//! Figures of this process, and tests that need a process of their own.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

const ISOLATED: &str = "UMRT_TEST_ISOLATED";

/// Runs `body` in a process in which nothing else happens. `test` is the name
/// of the calling test.
pub fn isolated(test: &str, body: impl FnOnce()) {
    if env::var(ISOLATED).is_ok_and(|name| name == test) {
        return body();
    }
    let executable = env::current_exe().expect("the test binary");
    run_isolated(&mut Command::new(executable), test);
}

/// The same with at most `bytes` of address space.
pub fn isolated_within(test: &str, bytes: usize, body: impl FnOnce()) {
    if env::var(ISOLATED).is_ok_and(|name| name == test) {
        return body();
    }
    let script = format!("ulimit -v {} && exec \"$0\" \"$@\"", bytes / 1024);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    shell.arg(env::current_exe().expect("the test binary"));
    run_isolated(&mut shell, test);
}

fn run_isolated(command: &mut Command, test: &str) {
    let output = command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ISOLATED, test)
        .output()
        .expect("a process");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    println!("{stdout}{stderr}");
    assert!(output.status.success(), "{test}: {}", output.status);
    assert!(stdout.contains("1 passed"), "there is no test {test}");
}

/// Resident memory that no file backs.
pub fn anonymous_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("RssAnon in kB")
        * 1024
}

/// From here on the C library gives large blocks back as soon as they are freed. Left
/// to itself it keeps them on its heap, and how many of them depends on the order in
/// which threads free them. Blocks that it already keeps stay there: call this first.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back_large_blocks() {
    const LARGE: libc::c_int = 16 << 10;
    // SAFETY: sets a number of the allocator.
    let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    assert_eq!(is_set, 1, "a threshold");
}

/// By how much the anonymous memory of this process grows during `call`, as far as
/// samples every fraction of a millisecond see it.
pub fn peak_growth(call: impl FnOnce()) -> usize {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let (started, start) = mpsc::channel();
        let ended = &ended;
        let sampler = scope.spawn(move || {
            let before = anonymous_bytes();
            let mut peak = before;
            started.send(()).expect("a caller that waits");
            while !ended.load(Relaxed) {
                peak = peak.max(anonymous_bytes());
                thread::sleep(Duration::from_micros(200));
            }
            peak - before
        });
        start.recv().expect("a first sample");
        call();
        ended.store(true, Relaxed);
        sampler.join().expect("samples")
    })
}

/// Runs `call` while this process gets at most `bytes` more of address space.
pub fn with_little_memory<T>(bytes: usize, call: impl FnOnce() -> T) -> T {
    let statm = fs::read_to_string("/proc/self/statm").expect("sizes");
    let pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    let set = |bytes: u64| {
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the system reads the structure.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    };
    // SAFETY: asks for a constant.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    set(pages * page_bytes + bytes as u64);
    let result = call();
    set(libc::RLIM_INFINITY);
    result
}

/// Threads of this process, without those that are about to end.
pub fn n_threads() -> usize {
    let count = || fs::read_dir("/proc/self/task").expect("threads").count();
    let samples = (0..10).map(|_| {
        thread::sleep(Duration::from_millis(5));
        count()
    });
    samples.min().unwrap_or_default()
}

/// The descriptor that reads the list counts too.
pub fn n_open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

/// Open files and mappings below `directory`, where the system can list them.
pub fn uses_of(directory: &Path) -> usize {
    if !cfg!(target_os = "linux") {
        return 0;
    }
    let directory = directory.canonicalize().expect("a directory");
    let files = fs::read_dir("/proc/self/fd").expect("descriptors");
    let files = files
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.starts_with(&directory));
    let maps = fs::read_to_string("/proc/self/maps").expect("mappings");
    let name = directory.to_str().expect("a readable path");
    files.count() + maps.lines().filter(|line| line.contains(name)).count()
}
