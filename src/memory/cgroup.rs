//! The limits of the control groups this process is in, versions 1 and 2, and
//! of all groups around them.

#[cfg(target_os = "linux")]
use std::path::Path;

/// What the tightest group leaves to models that hold `held_private` bytes of
/// private memory already. `None`: no group has a limit.
#[cfg(target_os = "linux")]
pub(super) fn headroom(held_private: usize) -> Option<usize> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    headroom_below(Path::new("/sys/fs/cgroup"), &membership, held_private)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn headroom(_held_private: usize) -> Option<usize> {
    None
}

/// The files of one version of control groups.
#[cfg(target_os = "linux")]
struct Version {
    /// Where the hierarchy can be mounted.
    mounts: &'static [&'static str],
    limits: &'static [&'static str],
    /// Keys of memory.stat: what cannot be dropped.
    held: &'static [&'static str],
}

#[cfg(target_os = "linux")]
const V1: Version = Version {
    mounts: &["memory"],
    limits: &["memory.limit_in_bytes"],
    held: &["total_rss", "total_shmem"],
};

#[cfg(target_os = "linux")]
const V2: Version = Version {
    mounts: &["", "unified"],
    // Above `high` the system slows the group down until it is below.
    limits: &["memory.max", "memory.high"],
    held: &["anon", "shmem"],
};

#[cfg(target_os = "linux")]
fn headroom_below(root: &Path, membership: &str, held_private: usize) -> Option<usize> {
    let groups = membership.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let version = match controllers {
            "" => V2,
            _ if controllers.split(',').any(|name| name == "memory") => V1,
            _ => return None,
        };
        Some((version, path.trim_start_matches('/')))
    });
    groups
        .flat_map(|(version, path)| {
            let mounts = version.mounts.iter().map(|mount| root.join(mount));
            mounts
                .filter_map(|mount| version.headroom(&mount, path, held_private))
                .collect::<Vec<_>>()
        })
        .min()
}

#[cfg(target_os = "linux")]
impl Version {
    /// The least that the group at `path` and those around it leave. Inside of a
    /// container some of them cannot be seen.
    fn headroom(&self, mount: &Path, path: &str, held_private: usize) -> Option<usize> {
        let inside = Path::new(path)
            .ancestors()
            .filter(|group| group.components().all(|part| part.as_os_str() != ".."));
        inside
            .filter_map(|group| self.group_headroom(&mount.join(group), held_private))
            .min()
    }

    fn group_headroom(&self, group: &Path, held_private: usize) -> Option<usize> {
        let number = |file: &&str| -> Option<usize> {
            let text = std::fs::read_to_string(group.join(file)).ok()?;
            text.trim().parse().ok()
        };
        let limit = self.limits.iter().filter_map(number).min()?;
        let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let held: usize = stat.lines().filter_map(|line| self.held_in(line)).sum();
        let others = held.saturating_sub(held_private);
        // Version 1 writes "no limit" as a number that no machine has.
        (limit < isize::MAX as usize / 2).then_some(limit.saturating_sub(others))
    }

    fn held_in(&self, line: &str) -> Option<usize> {
        let (key, bytes) = line.split_once(' ')?;
        self.held
            .contains(&key)
            .then_some(bytes.trim().parse().ok()?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let root = tree(&[
            ("a/b/c/memory.max", "max\n"),
            ("a/b/memory.max", "4000\n"),
            ("a/b/memory.stat", "anon 1000\nfile 5000\nshmem 100\n"),
            ("a/memory.max", "3500\n"),
        ]);
        let headroom = |held| headroom_below(root.path(), "0::/a/b/c\n", held);
        assert_eq!(headroom(0), Some(2900), "others in a/b hold 1100 of 4000");
        assert_eq!(
            headroom(1000),
            Some(3500),
            "then the group around is tighter"
        );
    }

    #[test]
    fn a_limit_that_slows_down_is_a_limit() {
        let root = tree(&[("a/memory.max", "4000\n"), ("a/memory.high", "3000\n")]);
        assert_eq!(headroom_below(root.path(), "0::/a", 0), Some(3000));
    }

    #[test]
    fn version_one_is_read_where_it_is_mounted() {
        let root = tree(&[
            (
                "memory/docker/x/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("memory/docker/memory.limit_in_bytes", "7000\n"),
            (
                "memory/docker/memory.stat",
                "rss 1\ntotal_rss 500\ntotal_shmem 0\n",
            ),
        ]);
        let membership = "9:name=systemd:/\n4:cpu,memory:/docker/x\n0::/\n";
        assert_eq!(headroom_below(root.path(), membership, 0), Some(6500));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let root = tree(&[("memory/memory.limit_in_bytes", "5000\n")]);
        let membership = "4:memory:/docker/not/visible/here\n";
        assert_eq!(headroom_below(root.path(), membership, 0), Some(5000));
        assert_eq!(
            headroom_below(root.path(), "4:memory:/../../x\n", 0),
            Some(5000)
        );
    }

    #[test]
    fn without_limits_there_is_none() {
        let root = tree(&[("a/memory.max", "max\n")]);
        assert_eq!(headroom_below(root.path(), "0::/a\n", 0), None);
        assert_eq!(headroom_below(root.path(), "", 0), None);
    }
}
