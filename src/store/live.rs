//! The contents that revisions in use have, each opened once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Content, ContentKey, StoreError};

/// All live contents.
#[derive(Default)]
pub(crate) struct LiveContents {
    contents: Mutex<HashMap<ContentKey, Weak<Content>>>,
    /// Held while a content is opened, so that each is opened once, and nothing that has changed since it was looked up is
    /// missed. Taken after `Store::moving` and before `contents`.
    opening: Mutex<()>,
}

impl LiveContents {
    /// The content, if some revision that is in use has it. Waits while a content is opened: that one was looked up before
    /// a change that the caller has just made, and must not miss it.
    pub fn get(&self, key: &ContentKey) -> Option<Arc<Content>> {
        let _opening = self.opening.lock();
        self.opened(key)
    }

    /// All contents of revisions that are in use. Waits as [`Self::get`] does.
    pub fn all(&self) -> Vec<Arc<Content>> {
        let _opening = self.opening.lock();
        self.contents.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn opened(&self, key: &ContentKey) -> Option<Arc<Content>> {
        self.contents.lock().get(key).and_then(Weak::upgrade)
    }

    /// The content of a key; `open` is called if no revision has it.
    pub(super) fn get_or_open(
        &self,
        key: ContentKey,
        open: impl FnOnce() -> Result<Content, StoreError>,
    ) -> Result<Arc<Content>, StoreError> {
        let _opening = self.opening.lock();
        if let Some(content) = self.opened(&key) {
            return Ok(content);
        }
        let content = Arc::new(open()?);
        let mut contents = self.contents.lock();
        // Dropped contents leave a dead entry each; they are removed when there may be many.
        if contents.len() == contents.capacity() {
            contents.retain(|_, c| c.strong_count() > 0);
        }
        contents.insert(key, Arc::downgrade(&content));
        Ok(content)
    }
}
