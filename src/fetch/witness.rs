//! The hub as a witness, as the scheduler uses it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;

use super::FileRef;

/// Sends bytes of the hub for comparisons, and receives the results.
pub trait HubWitness: Send + Sync {
    /// A file of a manifest at the hub. None if the hub cannot be asked about it now. Does not wait.
    fn open(&self, file: &FileRef) -> Option<Arc<dyn HubBytes>>;

    /// Reports a file whose bytes do not have the hash that the hub lists, or that the hub sends otherwise, and the
    /// difference. Called once for each manifest.
    fn contradicted(&self, file: &FileRef, difference: &str);

    /// Reports a file whose complete bytes have the hash that the hub lists.
    fn confirmed(&self, file: &FileRef);

    /// Reports that all bytes of some file have become verified. Must not wait.
    fn completed(&self);
}

/// A file at the hub.
pub trait HubBytes: Send + Sync {
    /// Requests bytes of the file. None if the hub did not send all of them. The caller has a deadline.
    fn part(&self, bytes: Range<u64>) -> BoxFuture<'static, Option<Vec<u8>>>;
}

/// The witness of a scheduler, once it is set.
#[derive(Default)]
pub(super) struct WitnessLink(OnceLock<Arc<dyn HubWitness>>);

impl WitnessLink {
    /// Sets the witness. Further calls have no effect.
    pub fn set(&self, witness: Arc<dyn HubWitness>) {
        let _ = self.0.set(witness);
    }

    pub fn get(&self) -> Option<&Arc<dyn HubWitness>> {
        self.0.get()
    }
}
