//! How many threads suit this process: the physical cores it may run on, within
//! the CPU time that its control groups grant.

use std::num::NonZeroUsize;
use std::thread;

/// Threads for kernels by default, at least 1: the physical cores that this
/// process may use. A second thread on a core shares its vector units and gains
/// nothing. On Apple platforms the performance cores: kernels would wait for
/// pieces on the slower ones.
pub fn default_threads() -> usize {
    system::cores()
        .or_else(|| thread::available_parallelism().ok().map(NonZeroUsize::get))
        .unwrap_or(1)
        .max(1)
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;

    use super::linux::{distinct_cores, quota_cpus};

    /// CPUs that an affinity mask is asked about.
    const MAX_CPUS: usize = 8192;

    pub(super) fn cores() -> Option<usize> {
        let read = |path: &str| fs::read_to_string(path).ok();
        let cores = distinct_cores(&allowed_cpus()?, &read);
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        Some(quota_cpus(&groups, &read).map_or(cores, |quota| quota.min(cores)))
    }

    /// The CPUs in this thread's affinity mask, which threads inherit.
    fn allowed_cpus() -> Option<Vec<usize>> {
        const WORD_BITS: usize = u64::BITS as usize;
        let mut mask = [0u64; MAX_CPUS / WORD_BITS];
        // SAFETY: the kernel writes at most as many bytes as the mask has.
        let code =
            unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
        let is_set = |cpu: &usize| mask[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1 == 1;
        (code == 0).then(|| (0..MAX_CPUS).filter(is_set).collect())
    }
}

#[cfg(target_vendor = "apple")]
mod system {
    use std::ffi::CStr;

    pub(super) fn cores() -> Option<usize> {
        number(c"hw.perflevel0.physicalcpu").or_else(|| number(c"hw.physicalcpu"))
    }

    fn number(name: &CStr) -> Option<usize> {
        let mut value: i32 = 0;
        let mut length = size_of::<i32>();
        // SAFETY: the name is NUL-terminated; the kernel writes at most `length` bytes.
        let code = unsafe {
            libc::sysctlbyname(
                name.as_ptr(),
                (&raw mut value).cast(),
                &mut length,
                std::ptr::null_mut(),
                0,
            )
        };
        let is_set = code == 0 && value > 0;
        usize::try_from(value).ok().filter(|_| is_set)
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
mod system {
    pub(super) fn cores() -> Option<usize> {
        None
    }
}

/// What Linux says in /sys and /proc; `read` gives a file's text.
#[cfg(any(target_os = "linux", test))]
mod linux {
    use std::collections::HashSet;

    type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

    /// Cores that `cpus` belong to. A CPU that the system does not describe is
    /// a core of its own.
    pub(super) fn distinct_cores(cpus: &[usize], read: Read<'_>) -> usize {
        let core_of = |cpu: &usize| {
            let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
            let field = |name: &str| {
                let text = read(&format!("{topology}/{name}"))?;
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            };
            field("thread_siblings_list")
                .or_else(|| {
                    let package = field("physical_package_id").unwrap_or_default();
                    Some(format!("core {} of {package}", field("core_id")?))
                })
                .unwrap_or_else(|| format!("CPU {cpu}"))
        };
        cpus.iter().map(core_of).collect::<HashSet<_>>().len()
    }

    /// The least quota, in CPUs, of the control groups in `groups`, which is
    /// /proc/self/cgroup, and of the groups around them. In a container the path
    /// may be the host's: what is not there is skipped, up to the root, which is
    /// then the container's own.
    pub(super) fn quota_cpus(groups: &str, read: Read<'_>) -> Option<usize> {
        groups
            .lines()
            .filter_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                group_quota(controllers, path, read)
            })
            .min()
    }

    fn group_quota(controllers: &str, path: &str, read: Read<'_>) -> Option<usize> {
        let v1_hierarchies = ["cpu".to_owned(), controllers.to_owned()];
        let v2_hierarchies = [String::new(), "unified".to_owned()];
        let is_v2 = controllers.is_empty();
        let (hierarchies, quota): (_, fn(&str, Read<'_>) -> Option<usize>) = match is_v2 {
            true => (v2_hierarchies, v2_quota),
            false if controllers.split(',').any(|name| name == "cpu") => (v1_hierarchies, v1_quota),
            false => return None,
        };
        let of_hierarchy = |hierarchy: &String| {
            let around = ancestors(path)
                .filter_map(|group| quota(&format!("/sys/fs/cgroup/{hierarchy}/{group}"), read));
            around.min()
        };
        hierarchies.iter().filter_map(of_hierarchy).min()
    }

    /// "/a/b": "a/b", "a", "".
    fn ancestors(path: &str) -> impl Iterator<Item = &str> {
        let path = path.trim_matches('/');
        std::iter::successors(Some(path), |inner| {
            let parent = inner.rsplit_once('/').map_or("", |(parent, _)| parent);
            (!inner.is_empty()).then_some(parent)
        })
    }

    /// "200000 100000", or "max 100000".
    fn v2_quota(group: &str, read: Read<'_>) -> Option<usize> {
        let text = read(&format!("{group}/cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        cpus(quota, period)
    }

    /// A quota of -1 is none.
    fn v1_quota(group: &str, read: Read<'_>) -> Option<usize> {
        let quota = read(&format!("{group}/cpu.cfs_quota_us"))?;
        let period = read(&format!("{group}/cpu.cfs_period_us"))?;
        cpus(quota.trim(), period.trim())
    }

    fn cpus(quota: &str, period: &str) -> Option<usize> {
        let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
        let cpus = quota.checked_add(period.checked_sub(1)?)? / period;
        usize::try_from(cpus.max(1)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use proptest::prelude::*;

    use super::linux::{distinct_cores, quota_cpus};
    use super::*;

    fn files<'a>(texts: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        // Paths are equal whatever the number of slashes.
        let texts: HashMap<_, _> = texts
            .iter()
            .map(|(path, text)| (Path::new(path), text))
            .collect();
        move |path| texts.get(Path::new(path)).map(|text| text.to_string())
    }

    fn topology(field: &str, values: &[&str]) -> Vec<(String, String)> {
        let path = |cpu| format!("/sys/devices/system/cpu/cpu{cpu}/topology/{field}");
        let line = |(cpu, value): (usize, &&str)| (path(cpu), format!("{value}\n"));
        values.iter().enumerate().map(line).collect()
    }

    fn cores(texts: &[(String, String)], cpus: &[usize]) -> usize {
        let texts: Vec<_> = texts
            .iter()
            .map(|(path, text)| (&**path, &**text))
            .collect();
        distinct_cores(cpus, &files(&texts))
    }

    #[test]
    fn siblings_count_as_one_core() {
        let texts = topology(
            "thread_siblings_list",
            &["0,4", "1,5", "2-3", "2-3", "0,4", "1,5"],
        );
        assert_eq!(cores(&texts, &[0, 1, 2, 3, 4, 5]), 3);
        assert_eq!(cores(&texts, &[0, 4]), 1);
        assert_eq!(cores(&texts, &[4, 5]), 2);
    }

    #[test]
    fn cores_of_different_packages_differ() {
        let mut texts = topology("core_id", &["0", "1", "0", "1"]);
        texts.extend(topology("physical_package_id", &["0", "0", "1", "1"]));
        assert_eq!(cores(&texts, &[0, 1, 2, 3]), 4);
        texts.extend(topology(
            "thread_siblings_list",
            &["0-1", "0-1", "2-3", "2-3"],
        ));
        assert_eq!(cores(&texts, &[0, 1, 2, 3]), 2);
    }

    #[test]
    fn cpus_without_a_description_are_cores() {
        assert_eq!(cores(&[], &[0, 1, 7]), 3);
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_cpus() {
        for (text, quota) in [
            ("100000 100000\n", Some(1)),
            ("150000 100000\n", Some(2)),
            ("1000 100000\n", Some(1)),
            ("max 100000\n", None),
            ("\n", None),
            ("0 0\n", None),
            ("-5 100000\n", None),
        ] {
            let texts = [("/sys/fs/cgroup/cpu.max", text)];
            assert_eq!(quota_cpus("0::/\n", &files(&texts)), quota, "{text:?}");
        }
    }

    #[test]
    fn the_least_quota_of_a_group_and_those_around_it_holds() {
        let texts = [
            ("/sys/fs/cgroup/a/cpu.max", "300000 100000"),
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000"),
            ("/sys/fs/cgroup/a/b/c/cpu.max", "800000 100000"),
            ("/sys/fs/cgroup/other/cpu.max", "100000 100000"),
        ];
        assert_eq!(quota_cpus("0::/a/b/c\n", &files(&texts)), Some(3));
        assert_eq!(quota_cpus("0::/elsewhere/b\n", &files(&texts)), None);
    }

    #[test]
    fn version_1_groups_are_found_beside_version_2_and_under_their_own_root() {
        let texts = [
            ("/sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/unified/cpu.max", "500000 100000\n"),
            ("/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "100000\n"),
            ("/sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"),
        ];
        let groups = "5:cpuset:/\n4:cpu,cpuacct:/jobs/42\n1:name=systemd:/init\n0::/\n";
        assert_eq!(quota_cpus(groups, &files(&texts)), Some(3));
        assert_eq!(quota_cpus("0::/\n", &files(&texts)), Some(5));
    }

    #[test]
    fn joined_controllers_may_have_a_hierarchy_of_their_name() {
        let texts = [
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000"),
        ];
        assert_eq!(quota_cpus("4:cpu,cpuacct:/x\n", &files(&texts)), Some(2));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(groups in "[0-9a-z:/,\n ]{0,60}", text in "[0-9a-z -]{0,40}") {
            let found = quota_cpus(&groups, &|_| Some(text.clone()));
            prop_assert!(found.is_none_or(|cpus| cpus > 0));
        }
    }

    #[test]
    fn the_default_is_within_what_the_process_may_use() {
        let available = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        assert!((1..=available).contains(&default_threads()));
    }
}
