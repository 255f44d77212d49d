//! One published state of the mount, immutable: directories above the revisions, and the revisions.
//!
//! ```text
//! /org/name            the default revision, `main`; a link to the only revision where there is no `main`
//! /org/name@revision   every other revision
//! /org/name@main       not listed, but found: a link to `name`, so that scripts may always write the revision
//! /datasets/…          the same for datasets
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::inode::{Ino, Numbers};
use super::listing::{Node, NodeKind, Nodes};
use super::place::Place;
use crate::model::{Kind, ModelName, Revision};
use crate::store::StoredRevision;

/// A directory above the revisions: the root, `datasets`, or an organisation.
#[derive(Debug)]
pub struct TopDir {
    /// Which one it is.
    pub place: Place,
    /// The directory above; the root is its own.
    pub parent: Ino,
    /// Its entries, sorted by name.
    pub entries: Vec<TopEntry>,
    /// Entries that are found but not listed, sorted by name.
    pub hidden: Vec<TopEntry>,
}

impl TopDir {
    fn new(place: Place, parent: Ino) -> Self {
        Self { place, parent, entries: Vec::new(), hidden: Vec::new() }
    }

    /// Finds a name.
    pub fn child(&self, name: &str) -> Option<&TopEntry> {
        [&self.entries, &self.hidden].into_iter().find_map(|entries| {
            let at = entries.binary_search_by(|e| e.name.as_str().cmp(name)).ok()?;
            Some(&entries[at])
        })
    }
}

/// An entry of a [`TopDir`].
#[derive(Debug)]
pub struct TopEntry {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ino: Ino,
    /// Whether it is a directory; else it is a link.
    pub is_dir: bool,
}

/// A revision shown at one place.
#[derive(Debug)]
pub struct Placement {
    /// The directory it stands in.
    pub parent: Ino,
    /// The number of its own directory; its nodes follow.
    pub first: Ino,
    /// Its manifest and contents.
    pub revision: Arc<StoredRevision>,
    /// Its directories and files.
    pub nodes: Arc<Nodes>,
    /// When the manifest says it was made; the time of mounting where it does not.
    pub mtime: SystemTime,
}

impl Placement {
    /// The number of a node.
    pub fn ino(&self, node: u32) -> Ino {
        Ino(self.first.0 + u64::from(node))
    }
}

/// What a number stands for.
pub enum Found<'a> {
    /// A directory above the revisions.
    Top(&'a TopDir),
    /// A link above the revisions, and where it points.
    Link(&'a str),
    /// A directory or file of a revision; the number is its index there.
    Inside(&'a Placement, u32, &'a Node),
}

/// One published state.
#[derive(Debug)]
pub struct View {
    dirs: HashMap<Ino, TopDir>,
    links: HashMap<Ino, String>,
    placements: BTreeMap<Ino, Placement>,
}

impl View {
    /// The state that shows these revisions. Of two with the same name and revision, the last is shown. Lists of
    /// nodes are taken over from the `previous` state where the content is the same.
    pub fn new(
        revisions: Vec<Arc<StoredRevision>>,
        previous: Option<&Self>,
        numbers: &Numbers,
        mounted_at: SystemTime,
    ) -> Self {
        let mut by_name: BTreeMap<ModelName, BTreeMap<Revision, Arc<StoredRevision>>> = BTreeMap::new();
        for revision in revisions {
            let manifest = &revision.manifest;
            let same_name = by_name.entry(manifest.name.clone()).or_default();
            same_name.insert(manifest.version.clone(), revision);
        }
        let mut view = Self { dirs: HashMap::new(), links: HashMap::new(), placements: BTreeMap::new() };
        view.dirs.insert(Ino::ROOT, TopDir::new(Place::Root, Ino::ROOT));
        for (name, revisions) in by_name {
            let org = view.org(&name, numbers);
            view.place(&name, org, revisions, previous, numbers, mounted_at);
        }
        for dir in view.dirs.values_mut() {
            dir.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            dir.hidden.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        view
    }

    fn org(&mut self, name: &ModelName, numbers: &Numbers) -> Ino {
        let parent = match name.kind() {
            Kind::Model => Ino::ROOT,
            Kind::Dataset => self.dir(Ino::ROOT, "datasets", Place::Datasets, numbers),
        };
        self.dir(parent, name.org(), Place::Org(name.kind(), name.org().to_owned()), numbers)
    }

    fn dir(&mut self, parent: Ino, name: &str, place: Place, numbers: &Numbers) -> Ino {
        let ino = numbers.of_path(&place.path());
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.dirs.entry(ino) {
            vacant.insert(TopDir::new(place, parent));
            self.enter(parent, TopEntry { name: name.to_owned(), ino, is_dir: true }, true);
        }
        ino
    }

    fn enter(&mut self, dir: Ino, entry: TopEntry, listed: bool) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            if listed { dir.entries.push(entry) } else { dir.hidden.push(entry) }
        }
    }

    fn place(
        &mut self,
        name: &ModelName,
        org: Ino,
        revisions: BTreeMap<Revision, Arc<StoredRevision>>,
        previous: Option<&Self>,
        numbers: &Numbers,
        mounted_at: SystemTime,
    ) {
        let default = Revision::default();
        let named = |revision: &Revision| format!("{}@{revision}", name.name());
        let link = if revisions.contains_key(&default) {
            Some((named(&default), name.name().to_owned(), false))
        } else if revisions.len() == 1 {
            revisions.keys().next().map(|only| (name.name().to_owned(), named(only), true))
        } else {
            None
        };
        if let Some((at, target, listed)) = link {
            let ino = numbers.of_path(&format!("{name}\0{at}"));
            self.links.insert(ino, target);
            self.enter(org, TopEntry { name: at, ino, is_dir: false }, listed);
        }
        for (version, revision) in revisions {
            let shown = if version.is_default() { name.name().to_owned() } else { named(&version) };
            let info_hash = revision.manifest.torrent.info_hash;
            let key = format!("{name}@{version}");
            let known = numbers.known_revision(&key, info_hash);
            let nodes = known
                .and_then(|first| Some(previous?.placements.get(&first)?.nodes.clone()))
                .unwrap_or_else(|| Arc::new(Nodes::new(&revision.manifest.files)));
            let first = numbers.of_revision(&key, info_hash, nodes.len());
            let mtime = revision.manifest.created_at.as_deref().and_then(parse_time).unwrap_or(mounted_at);
            self.placements.insert(first, Placement { parent: org, first, revision, nodes, mtime });
            self.enter(org, TopEntry { name: shown, ino: first, is_dir: true }, true);
        }
    }

    /// What a number stands for; none if nothing shown has it (any more).
    pub fn find(&self, ino: Ino) -> Option<Found<'_>> {
        if let Some(dir) = self.dirs.get(&ino) {
            return Some(Found::Top(dir));
        }
        if let Some(target) = self.links.get(&ino) {
            return Some(Found::Link(target));
        }
        let (_, placement) = self.placements.range(..=ino).next_back()?;
        let index = ino.0 - placement.first.0;
        let node = placement.nodes.get(index)?;
        Some(Found::Inside(placement, index as u32, node))
    }

    /// The revisions that are shown.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.placements.values()
    }

    /// Number of directories and links above the revisions.
    pub fn top_len(&self) -> u64 {
        (self.dirs.len() + self.links.len()) as u64
    }

    /// Number of links (2 and one for each directory within, as everywhere on Unix) of a directory.
    pub fn nlink(&self, found: &Found<'_>) -> u32 {
        match found {
            Found::Top(dir) => 2 + dir.entries.iter().filter(|e| e.is_dir).count() as u32,
            Found::Inside(_, _, Node { kind: NodeKind::Dir { subdirs, .. }, .. }) => 2 + subdirs,
            Found::Link(_) | Found::Inside(..) => 1,
        }
    }
}

/// Reads an RFC 3339 time. Times before 1970 count as none.
fn parse_time(text: &str) -> Option<SystemTime> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    let since_epoch = Duration::try_from(timestamp.as_duration()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_nonsense_is_none() {
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        assert_eq!(parse_time("1970-01-02T00:00:00Z"), Some(day));
        assert_eq!(parse_time("1970-01-02T02:00:00+02:00"), Some(day));
        assert_eq!(parse_time("1969-12-31T00:00:00Z"), None);
        assert_eq!(parse_time("yesterday"), None);
    }
}
