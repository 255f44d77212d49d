//! Small files of manifests that the user did not choose: the hub lists no SHA-256 for them, so all bytes are compared with the
//! identifier that it lists before a reader gets the first one.

use std::sync::Arc;

use super::{Fetch, FileRef, ReadError};
use crate::model::identity::BlobHasher;

/// Bytes that are hashed at a time.
const CHUNK: u64 = 1 << 20;

impl FileRef {
    /// Whether the bytes must be compared with the hash that the hub lists before a reader gets any of them.
    pub fn is_unchecked(&self) -> bool {
        self.revision.listed.as_ref().is_some_and(|listed| listed.unchecked_blob(self.file).is_some())
    }
}

impl Fetch {
    /// Sets what is called for a file whose bytes do not have the hash that the hub lists. Further calls have no effect.
    pub fn on_contradiction(&self, call: impl Fn(FileRef, String) + Send + Sync + 'static) {
        let _ = self.contradictions.0.set(Box::new(call));
    }

    /// Reports a file whose bytes do not have the hash that the hub lists, with the difference.
    pub fn report_contradiction(&self, file: &FileRef, difference: &str) {
        if let Some(call) = self.contradictions.0.get() {
            call(file.clone(), difference.to_owned());
        }
    }

    /// Fetches all bytes of a file that [is not checked](FileRef::is_unchecked), and compares them with the identifier that the hub
    /// lists. Each read has the deadline of a read. `Broken` if the bytes have another identifier.
    pub async fn check_listed(
        self: &Arc<Self>,
        file: &FileRef,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<(), ReadError> {
        let Some(listed) = &file.revision.listed else { return Ok(()) };
        let Some(expected) = listed.unchecked_blob(file.file) else { return Ok(()) };
        let len = file.content().len();
        let (mut hasher, mut at) = (BlobHasher::new(len), 0);
        while at < len {
            let bytes = self.read_awaiting(file, at..len.min(at + CHUNK), is_shown).await?;
            at += bytes.len() as u64;
            hasher.update(&bytes);
        }
        let found = hasher.finish();
        if found == expected {
            listed.set_checked(file.file);
            return Ok(());
        }
        let path = &file.revision.manifest.files[file.file].path;
        let difference = format!("{path} has the git object id {found}, and {expected} at the hub");
        self.report_contradiction(file, &difference);
        Err(ReadError::Broken(format!("the manifest contradicts the hub: {difference}")))
    }
}
