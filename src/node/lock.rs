//! `node.lock`: one process per base directory.

use crate::node::NodeError;
use crate::paths::Paths;

/// Holds the base directory until dropped. The kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub struct NodeLock {
    _file: std::fs::File,
}

impl NodeLock {
    /// Takes the lock at once or says who holds it.
    pub fn take(_paths: &Paths) -> Result<Self, NodeError> {
        todo!()
    }
}
