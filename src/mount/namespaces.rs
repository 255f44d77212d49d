//! Namespaces of processes: those of the process that mounted and those of the process that serves may differ.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// Identifies the mount table and the process numbers that a process sees, by the kernel's numbers (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Namespaces {
    /// The inode number of `/proc/self/ns/mnt`.
    mount: u64,
    /// The inode number of `/proc/self/ns/pid`.
    pid: u64,
    /// Device and inode number of the root directory, which differ after chroot(2).
    root: (u64, u64),
}

impl From<Namespaces> for String {
    fn from(all: Namespaces) -> Self {
        let Namespaces { mount, pid, root: (device, inode) } = all;
        format!("mnt:{mount} pid:{pid} root:{device}:{inode}")
    }
}

impl TryFrom<String> for Namespaces {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
        let numbers: Option<Vec<u64>> = numbers.map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[mount, pid, device, inode]) => Ok(Self { mount, pid, root: (device, inode) }),
            _ => Err("not a list of namespaces"),
        }
    }
}

impl Namespaces {
    /// The namespaces of this process.
    pub fn of_this_process() -> io::Result<Self> {
        let number = |name| std::fs::metadata(name).map(|metadata| metadata.ino());
        let root = std::fs::metadata("/")?;
        Ok(Self {
            mount: number("/proc/self/ns/mnt")?,
            pid: number("/proc/self/ns/pid")?,
            root: (root.dev(), root.ino()),
        })
    }

    /// Whether paths and mount points of this process mean the same there.
    pub fn share_mount_table(&self) -> bool {
        Self::of_this_process().is_ok_and(|here| self.share_mount_table_with(&here))
    }

    /// Whether paths and mount points mean the same in both namespaces.
    pub fn share_mount_table_with(&self, other: &Self) -> bool {
        (self.mount, self.root) == (other.mount, other.root)
    }

    /// Whether process numbers of this process mean the same there.
    pub fn share_pids(&self) -> bool {
        Self::of_this_process().is_ok_and(|here| here.pid == self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_own_namespaces() {
        let here = Namespaces::of_this_process().unwrap();
        assert!(here.share_mount_table() && here.share_pids());
        let there = Namespaces { mount: here.mount + 1, ..here };
        assert!(!there.share_mount_table() && there.share_pids());
        let below = Namespaces { root: (here.root.0, here.root.1 + 1), ..here };
        assert!(!below.share_mount_table());
        assert_eq!(Namespaces::try_from(String::from(here)), Ok(here));
        assert!(Namespaces::try_from("mnt:1 pid:2".to_owned()).is_err());
    }
}
