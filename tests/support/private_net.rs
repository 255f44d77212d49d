//! A network of one: a fresh namespace with nothing but loopback, for tests that run the engine in this process.

use std::fs::File;
use std::os::fd::AsFd as _;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::net::{Net, sh};

/// Runs `body` on a thread in a new network namespace in which only `lo` is up. Its threads and processes are in the
/// namespace too; processes that remain are killed. Panics if `body` panics.
pub fn in_private_net<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let net = Net::new();
    let namespace = net.bridge();
    sh(&format!("ip -n {namespace} link set lo up"));
    in_namespace(&namespace, body)
}

/// Runs `body` on a thread in a network namespace. Threads that it starts stay in the namespace. Panics if `body`
/// panics.
pub fn in_namespace<R: Send + 'static>(namespace: &str, body: impl FnOnce() -> R + Send + 'static) -> R {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        body()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn nothing_outside_is_reachable() {
    let links = in_private_net(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let mut names: Vec<_> =
        links.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    names.sort_unstable();
    assert_eq!(names, ["br0", "lo"]);
}
