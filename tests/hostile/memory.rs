//! Memory of a victim, and whether it has read the bytes that were sent to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::lab::process_of;
use crate::support::host::Host;
use crate::support::private_net::in_namespace;

/// Measures the growth of a victim's memory.
pub struct Memory {
    pid: i32,
    before: u64,
}

impl Memory {
    /// Starts the measurement for the node of a host.
    pub fn of(host: &Host) -> Self {
        let pid = process_of(host);
        // Sets the high-water mark to the present resident size.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Self { pid, before: read(pid, "VmRSS:") }
    }

    /// The largest growth of the resident memory, in bytes. AddressSanitizer doubles the size of a buffer of 16 KiB,
    /// because its allocator rounds the buffer and its red zones up to 32 KiB.
    pub fn growth(&self) -> u64 {
        let growth = read(self.pid, "VmHWM:").saturating_sub(self.before);
        if std::env::var_os("SILMARIL_ENGINE_FLAVOR").is_some_and(|flavor| flavor == "asan") {
            return growth / 2;
        }
        growth
    }
}

fn read(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the victim has ended");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the victim has ended");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Bytes from these remote addresses that have arrived at a host and that its node has not read; 0 for closed
/// connections.
pub fn unread(host: &Host, from: &[SocketAddr]) -> u64 {
    let table =
        in_namespace(host.namespace(), || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let ends: Vec<String> = from.iter().map(|end| hex_end(*end)).collect();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = ends.iter().any(|end| fields.get(2) == Some(&end.as_str()));
        let queue = fields.get(4)?.split_once(':')?.1;
        ours.then(|| u64::from_str_radix(queue, 16).ok())?
    };
    table.lines().filter_map(line).sum()
}

/// An address in the format of `/proc/net/tcp`.
fn hex_end(end: SocketAddr) -> String {
    let SocketAddr::V4(v4) = end else { panic!("{end} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port())
}

/// Waits until a victim has read all bytes from these remote addresses, or has stopped reading for 2 s.
pub fn digest(host: &Host, from: &[SocketAddr]) {
    const STILL: Duration = Duration::from_secs(2);
    let (mut last, mut since) = (u64::MAX, Instant::now());
    loop {
        let left = unread(host, from);
        if left != last {
            (last, since) = (left, Instant::now());
        }
        if left == 0 || since.elapsed() > STILL {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
