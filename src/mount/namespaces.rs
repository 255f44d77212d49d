//! The namespaces of the process that mounted, compared with those of the process that serves.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// What identifies the mount table and the process numbers that a process sees, as the kernel names them (namespaces(7)).
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
            _ => Err("not the namespaces of a process"),
        }
    }
}

impl Namespaces {
    /// Those of this process.
    pub fn of_this_process() -> io::Result<Self> {
        let number = |name| std::fs::metadata(name).map(|metadata| metadata.ino());
        let root = std::fs::metadata("/")?;
        Ok(Self {
            mount: number("/proc/self/ns/mnt")?,
            pid: number("/proc/self/ns/pid")?,
            root: (root.dev(), root.ino()),
        })
    }

    /// Whether paths and mount points mean the same in this process.
    pub fn have_this_mount_table(&self) -> bool {
        Self::of_this_process().is_ok_and(|here| self.have_the_mount_table_of(&here))
    }

    /// Whether paths and mount points mean the same in both.
    pub fn have_the_mount_table_of(&self, other: &Self) -> bool {
        (self.mount, self.root) == (other.mount, other.root)
    }

    /// Whether process numbers mean the same in this process.
    pub fn are_those_of_processes_here(&self) -> bool {
        Self::of_this_process().is_ok_and(|here| here.pid == self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_own_namespaces() {
        let here = Namespaces::of_this_process().unwrap();
        assert!(here.have_this_mount_table() && here.are_those_of_processes_here());
        let there = Namespaces { mount: here.mount + 1, ..here };
        assert!(!there.have_this_mount_table() && there.are_those_of_processes_here());
        let below = Namespaces { root: (here.root.0, here.root.1 + 1), ..here };
        assert!(!below.have_this_mount_table());
        assert_eq!(Namespaces::try_from(String::from(here)), Ok(here));
        assert!(Namespaces::try_from("mnt:1 pid:2".to_owned()).is_err());
    }
}
