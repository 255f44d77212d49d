//! One published state of the mount, immutable: directories above the revisions, and the revisions.
//!
//! ```text
//! /org/name            the default revision, `main`; a link to the only revision where there is no `main`
//! /org/name@revision   every other revision
//! /org/name@main       not listed, but found: a link to `name`, so that scripts may always write the revision
//! /datasets/…          the same for datasets
//! /.by/FINGERPRINT/…   not listed, but found: the same for the models of one publisher, also where others own the names
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::inode::{Ino, Numbers};
use super::listing::{Node, NodeKind, Nodes};
use super::place::{BY, Place};
use crate::model::{InfoHash, Kind, ModelName, ModelRef, Revision};
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
    /// The fingerprint below which `.by` shows it; none where it is shown under its name.
    pub of: Option<String>,
    /// Whether something in it was looked up, listed or opened since it was mounted.
    used: Arc<AtomicBool>,
}

impl Placement {
    /// Notes that a program uses it.
    pub fn note_use(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

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

/// What a mount is to show.
#[derive(Debug, Default)]
pub struct Shown {
    /// The models of the registry.
    pub revisions: Vec<Arc<StoredRevision>>,
    /// Those of them whose names several publishers dispute: they are found below `.by` alone, unless they were read
    /// before.
    pub disputed: BTreeSet<ModelRef>,
    /// Models that are found below `.by` alone.
    pub beside: Vec<Arc<StoredRevision>>,
}

impl From<Vec<Arc<StoredRevision>>> for Shown {
    fn from(revisions: Vec<Arc<StoredRevision>>) -> Self {
        Self { revisions, ..Self::default() }
    }
}

type ByName = BTreeMap<ModelName, BTreeMap<Revision, Arc<StoredRevision>>>;

/// One published state.
#[derive(Debug)]
pub struct View {
    disputed: BTreeSet<ModelRef>,
    dirs: HashMap<Ino, TopDir>,
    links: HashMap<Ino, String>,
    placements: BTreeMap<Ino, Placement>,
}

impl View {
    /// The state that shows these revisions. Of two with the same name and revision, the last is shown. Lists of
    /// nodes are taken over from the `previous` state where the content is the same.
    pub fn new(shown: Shown, previous: Option<&Self>, numbers: &Numbers, mounted_at: SystemTime) -> Self {
        let Shown { revisions, disputed, beside } = shown;
        let mut plain = ByName::new();
        let mut by: BTreeMap<String, ByName> = BTreeMap::new();
        // Of two states of one publisher, the later one in this order is shown: the state of the registry.
        let all = beside.into_iter().map(|revision| (revision, false));
        for (revision, has_name) in all.chain(revisions.into_iter().map(|revision| (revision, true))) {
            let manifest = &revision.manifest;
            if let Some(publisher) = manifest.publisher {
                enter_name(by.entry(publisher.fingerprint()).or_default(), &revision);
            }
            if has_name && !disputed.contains(&manifest.model_ref()) {
                enter_name(&mut plain, &revision);
            }
        }
        let mut view =
            Self { disputed, dirs: HashMap::new(), links: HashMap::new(), placements: BTreeMap::new() };
        view.dirs.insert(Ino::ROOT, TopDir::new(Place::Root, Ino::ROOT));
        let mut placing = Placing { previous, numbers, mounted_at, nodes: HashMap::new() };
        for (name, revisions) in plain {
            let org = view.org(None, &name, numbers);
            view.place(None, &name, org, revisions, &mut placing);
        }
        for model in view.disputed.clone() {
            // Its organisation is found, listed or not, so that the name can be refused.
            view.org(None, &model.name, numbers);
        }
        for (publisher, by_name) in by {
            for (name, revisions) in by_name {
                let org = view.org(Some(&publisher), &name, numbers);
                view.place(Some(&publisher), &name, org, revisions, &mut placing);
            }
        }
        for dir in view.dirs.values_mut() {
            dir.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            dir.hidden.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        view
    }

    /// Whether several publishers dispute the name of a model, and it is not shown.
    pub fn is_disputed(&self, model: &ModelRef) -> bool {
        self.disputed.contains(model)
    }

    /// Of the disputed names that are to be shown next, those whose present publisher was read in this view.
    pub fn used_of(&self, next: &Shown) -> BTreeSet<ModelRef> {
        let same = |placement: &Placement, revision: &Arc<StoredRevision>| {
            let (here, there) = (&placement.revision.manifest, &revision.manifest);
            here.model_ref() == there.model_ref() && here.torrent.info_hash == there.torrent.info_hash
        };
        let used = |revision: &&Arc<StoredRevision>| {
            let plain = self.placements.values().filter(|placement| placement.of.is_none());
            plain.filter(|placement| placement.used.load(Ordering::Relaxed)).any(|p| same(p, revision))
        };
        let disputed = next.revisions.iter();
        let disputed = disputed.filter(|revision| next.disputed.contains(&revision.manifest.model_ref()));
        disputed.filter(used).map(|revision| revision.manifest.model_ref()).collect()
    }

    fn org(&mut self, publisher: Option<&str>, name: &ModelName, numbers: &Numbers) -> Ino {
        let root = match publisher {
            None => Ino::ROOT,
            Some(publisher) => {
                let by = self.dir(Ino::ROOT, BY, Place::By, numbers, false);
                self.dir(by, publisher, below(Some(publisher), Place::Root), numbers, true)
            }
        };
        let parent = match name.kind() {
            Kind::Model => root,
            Kind::Dataset => self.dir(root, "datasets", below(publisher, Place::Datasets), numbers, true),
        };
        let place = Place::Org(name.kind(), name.org().to_owned());
        self.dir(parent, name.org(), below(publisher, place), numbers, true)
    }

    fn dir(&mut self, parent: Ino, name: &str, place: Place, numbers: &Numbers, listed: bool) -> Ino {
        let ino = numbers.of_path(&place.path());
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.dirs.entry(ino) {
            vacant.insert(TopDir::new(place, parent));
            self.enter(parent, TopEntry { name: name.to_owned(), ino, is_dir: true }, listed);
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
        publisher: Option<&str>,
        name: &ModelName,
        org: Ino,
        revisions: BTreeMap<Revision, Arc<StoredRevision>>,
        placing: &mut Placing<'_>,
    ) {
        let Placing { previous, numbers, mounted_at, nodes: made } = placing;
        let prefix = publisher.map_or_else(String::new, |publisher| format!("{BY}/{publisher}/"));
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
            let ino = numbers.of_path(&format!("{prefix}{name}\0{at}"));
            self.links.insert(ino, target);
            self.enter(org, TopEntry { name: at, ino, is_dir: false }, listed);
        }
        for (version, revision) in revisions {
            let shown = if version.is_default() { name.name().to_owned() } else { named(&version) };
            let info_hash = revision.manifest.torrent.info_hash;
            let key = format!("{prefix}{name}@{version}");
            let before = numbers.known_revision(&key, info_hash);
            let before = before.and_then(|first| previous.as_ref()?.placements.get(&first));
            let nodes = before.map(|before| before.nodes.clone());
            // Nodes depend on the files alone, and so does the torrent.
            let nodes = made
                .entry(info_hash)
                .or_insert_with(|| nodes.unwrap_or_else(|| Arc::new(Nodes::new(&revision.manifest.files))));
            let nodes = nodes.clone();
            let used = before.map(|before| before.used.clone()).unwrap_or_default();
            let first = numbers.of_revision(&key, info_hash, nodes.len());
            let mtime = revision.manifest.created_at.as_deref().and_then(parse_time).unwrap_or(*mounted_at);
            let of = publisher.map(str::to_owned);
            self.placements.insert(first, Placement { parent: org, first, revision, nodes, mtime, of, used });
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

    /// Number of directories and links above the revisions, without those below `.by`.
    pub fn top_len(&self) -> u64 {
        let plain = |dir: &&TopDir| !matches!(dir.place, Place::By | Place::Of(..));
        let dirs = self.dirs.values().filter(plain);
        dirs.map(|dir| 1 + dir.entries.iter().chain(&dir.hidden).filter(|e| !e.is_dir).count() as u64).sum()
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

/// What is needed to place revisions.
struct Placing<'a> {
    previous: Option<&'a View>,
    numbers: &'a Numbers,
    mounted_at: SystemTime,
    /// The lists of nodes made so far: a revision that is shown at two places has one.
    nodes: HashMap<InfoHash, Arc<Nodes>>,
}

fn enter_name(names: &mut ByName, revision: &Arc<StoredRevision>) {
    let manifest = &revision.manifest;
    names.entry(manifest.name.clone()).or_default().insert(manifest.version.clone(), revision.clone());
}

/// A place, below the directory of a publisher where there is one.
fn below(publisher: Option<&str>, place: Place) -> Place {
    match publisher {
        Some(publisher) => Place::Of(publisher.to_owned(), Box::new(place)),
        None => place,
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
