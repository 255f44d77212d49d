//! Mounts below a directory: listing and detaching them.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

/// Mount points below `dir` (or `dir` itself), innermost first.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Whether there is a mount at exactly this path. Does not access the mount, which may be dead.
pub fn is_mounted(point: &Path) -> bool {
    below(point).iter().any(|p| p == point)
}

/// Detaches all mounts below `dir`, dead or busy.
pub fn detach_below(dir: &Path) {
    for point in below(dir) {
        let _ = rustix::mount::unmount(&point, UnmountFlags::DETACH);
    }
}
