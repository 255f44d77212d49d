//! One published state of the mount, immutable: directories above the revisions, and the revisions.
//!
//! ```text
//! /org/name            the default revision, `main`; without `main`, a link to the only revision
//! /org/name@revision   every other revision
//! /org/name@main       not listed, but found: a link to `name`, so that scripts can always write the revision
//! /datasets/…          the same for datasets
//! /.by/FINGERPRINT/…   not listed, but found: the same for the models of one publisher, even if another publisher owns
//!                      the name
//! ```
//!
//! In the layout [`MountLayout::Hf`], which is the cache directory of the hub's clients:
//!
//! ```text
//! /models--org--name/refs/REVISION            a file with the commit of the revision
//! /models--org--name/snapshots/COMMIT/…       the files
//! /models--org--name/blobs                    empty
//! /datasets--org--name/…                      the same for datasets
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::inode::{Ino, InodeNumbers};
use super::listing::{ListingNode, NodeKind, Nodes};
use super::shown::{InodeRef, Placement, TopDir, TopEntry};
use super::top_path::{BY, MountLayout, RepoDir, TopPath, repo_folder};
use crate::model::{InfoHash, Kind, ModelName, ModelRef, Revision};
use crate::store::StoredRevision;

/// The models that a mount shows.
#[derive(Debug, Default)]
pub struct ShownModels {
    /// The models of the registry.
    pub revisions: Vec<Arc<StoredRevision>>,
    /// Models of `revisions` whose names several publishers dispute. They are found only below `.by`, unless they were
    /// read before.
    pub disputed: BTreeSet<ModelRef>,
    /// Further models, found only below `.by`.
    pub by_publisher: Vec<Arc<StoredRevision>>,
    /// Other names of models, found as links but not listed.
    pub aliases: BTreeMap<ModelRef, ModelRef>,
}

impl From<Vec<Arc<StoredRevision>>> for ShownModels {
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
    texts: HashMap<Ino, String>,
    placements: BTreeMap<Ino, Placement>,
    /// The torrents of the revisions that are shown under their names.
    torrents: HashSet<InfoHash>,
}

impl View {
    /// Builds the state that shows these models. Of two models with the same name and revision the last one is shown. If
    /// the content is the same as in the `previous` state, its list of nodes is reused.
    pub fn new(
        shown: ShownModels,
        layout: MountLayout,
        previous: Option<&Self>,
        numbers: &InodeNumbers,
        mounted_at: SystemTime,
    ) -> Self {
        let ShownModels { revisions, disputed, by_publisher, aliases } = shown;
        let mut plain = ByName::new();
        let mut by: BTreeMap<String, ByName> = BTreeMap::new();
        // If a publisher has two states of a model, the one from the registry must be shown, so it is last in this order.
        let all = by_publisher.into_iter().map(|revision| (revision, false));
        for (revision, has_name) in all.chain(revisions.into_iter().map(|revision| (revision, true))) {
            let manifest = &revision.manifest;
            if let Some(publisher) = manifest.publisher {
                enter_name(by.entry(publisher.fingerprint()).or_default(), &revision);
            }
            if has_name && !disputed.contains(&manifest.model_ref()) {
                enter_name(&mut plain, &revision);
            }
        }
        let mut view = Self {
            disputed,
            dirs: HashMap::new(),
            links: HashMap::new(),
            texts: HashMap::new(),
            placements: BTreeMap::new(),
            torrents: HashSet::new(),
        };
        let root = match layout {
            MountLayout::Plain => TopPath::Root,
            MountLayout::Hf => TopPath::CacheRoot,
        };
        view.dirs.insert(Ino::ROOT, TopDir::new(root, Ino::ROOT));
        let mut placing = Placing { previous, numbers, mounted_at, nodes: HashMap::new() };
        match layout {
            MountLayout::Plain => view.arrange_plain(plain, by, aliases, &mut placing),
            MountLayout::Hf => view.arrange_as_cache(plain, &mut placing),
        }
        for dir in view.dirs.values_mut() {
            dir.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            dir.hidden.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        view
    }

    fn arrange_plain(
        &mut self,
        plain: ByName,
        by: BTreeMap<String, ByName>,
        aliases: BTreeMap<ModelRef, ModelRef>,
        placing: &mut Placing<'_>,
    ) {
        let numbers = placing.numbers;
        for (name, revisions) in plain {
            let org = self.org(None, &name, numbers);
            self.place(None, &name, org, revisions, placing);
        }
        for (alias, model) in aliases {
            self.place_alias(&alias, &model, numbers);
        }
        for model in self.disputed.clone() {
            // The directory of its organisation must exist, so that a lookup of the name reaches it and is refused.
            self.org(None, &model.name, numbers);
        }
        for (publisher, by_name) in by {
            for (name, revisions) in by_name {
                let org = self.org(Some(&publisher), &name, numbers);
                self.place(Some(&publisher), &name, org, revisions, placing);
            }
        }
    }

    fn arrange_as_cache(&mut self, plain: ByName, placing: &mut Placing<'_>) {
        let numbers = placing.numbers;
        for (name, revisions) in plain {
            let folder = repo_folder(&name);
            let repo = self.dir(Ino::ROOT, &folder, TopPath::Repo(name.clone()), numbers, true);
            let [_, refs, snapshots] = RepoDir::ALL
                .map(|dir| self.dir(repo, dir.name(), TopPath::RepoDir(name.clone(), dir), numbers, true));
            // The default revision, or the only one, as in the other layout.
            let default = match revisions.get(&Revision::default()) {
                None => only(&revisions).cloned(),
                Some(_) => None,
            };
            let named = revisions.into_iter();
            for (version, revision) in named.chain(default.map(|revision| (Revision::default(), revision))) {
                let commit = revision.manifest.commit();
                let ino = numbers.of_path(&format!("{folder}/refs/{version}"));
                self.texts.insert(ino, commit.clone());
                self.enter(refs, TopEntry { name: version.to_string(), ino, is_dir: false }, true);
                if self.dirs.get(&snapshots).is_some_and(|dir| dir.entries.iter().all(|e| e.name != commit)) {
                    let key = format!("{folder}/snapshots/{commit}");
                    let first = self.put(None, snapshots, &key, revision, placing);
                    self.enter(snapshots, TopEntry { name: commit, ino: first, is_dir: true }, true);
                }
            }
        }
    }

    /// Whether several publishers dispute the name of a model, and it is not shown.
    pub fn is_disputed(&self, model: &ModelRef) -> bool {
        self.disputed.contains(model)
    }

    /// The disputed names of the next state whose publisher's content was read in this view.
    pub fn used_of(&self, next: &ShownModels) -> BTreeSet<ModelRef> {
        let same = |placement: &Placement, revision: &Arc<StoredRevision>| {
            let (now, next) = (&placement.revision.manifest, &revision.manifest);
            now.model_ref() == next.model_ref() && now.torrent.info_hash == next.torrent.info_hash
        };
        let used = |revision: &&Arc<StoredRevision>| {
            let plain = self.placements.values().filter(|placement| placement.of.is_none());
            plain.filter(|placement| placement.used.load(Ordering::Relaxed)).any(|p| same(p, revision))
        };
        let disputed = next.revisions.iter();
        let disputed = disputed.filter(|revision| next.disputed.contains(&revision.manifest.model_ref()));
        disputed.filter(used).map(|revision| revision.manifest.model_ref()).collect()
    }

    fn org(&mut self, publisher: Option<&str>, name: &ModelName, numbers: &InodeNumbers) -> Ino {
        let root = match publisher {
            None => Ino::ROOT,
            Some(publisher) => {
                let by = self.dir(Ino::ROOT, BY, TopPath::By, numbers, false);
                self.dir(by, publisher, below(Some(publisher), TopPath::Root), numbers, true)
            }
        };
        let parent = match name.kind() {
            Kind::Model => root,
            Kind::Dataset => self.dir(root, "datasets", below(publisher, TopPath::Datasets), numbers, true),
        };
        let place = TopPath::Org(name.kind(), name.org().to_owned());
        self.dir(parent, name.org(), below(publisher, place), numbers, true)
    }

    fn dir(&mut self, parent: Ino, name: &str, place: TopPath, numbers: &InodeNumbers, listed: bool) -> Ino {
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
        let numbers = placing.numbers;
        let prefix = publisher.map_or_else(String::new, |publisher| format!("{BY}/{publisher}/"));
        let default = Revision::default();
        let named = |revision: &Revision| format!("{}@{revision}", name.name());
        let link = if revisions.contains_key(&default) {
            Some((named(&default), name.name().to_owned(), false))
        } else {
            let only = only(&revisions).map(|revision| &revision.manifest.version);
            only.map(|only| (name.name().to_owned(), named(only), true))
        };
        if let Some((at, target, listed)) = link {
            let ino = numbers.of_path(&format!("{prefix}{name}\0{at}"));
            self.links.insert(ino, target);
            self.enter(org, TopEntry { name: at, ino, is_dir: false }, listed);
        }
        for (version, revision) in revisions {
            let shown = if version.is_default() { name.name().to_owned() } else { named(&version) };
            let first = self.put(publisher, org, &format!("{prefix}{name}@{version}"), revision, placing);
            self.enter(org, TopEntry { name: shown, ino: first, is_dir: true }, true);
        }
    }

    /// Adds the files of a revision below a directory. `key` is the path for its inode numbers. Returns the number of its
    /// own directory.
    fn put(
        &mut self,
        publisher: Option<&str>,
        parent: Ino,
        key: &str,
        revision: Arc<StoredRevision>,
        placing: &mut Placing<'_>,
    ) -> Ino {
        let Placing { previous, numbers, mounted_at, nodes: made } = placing;
        let info_hash = revision.manifest.torrent.info_hash;
        if let Some(former) = previous.and_then(|view| view.hub_form_of(publisher, &revision)) {
            numbers.succeed(key, former, info_hash);
        }
        let before = numbers.known_revision(key, info_hash);
        let before = before.and_then(|first| previous.as_ref()?.placements.get(&first));
        let nodes = before.map(|before| before.nodes.clone());
        // Nodes depend only on the files, and so does the info hash.
        let nodes = made
            .entry(info_hash)
            .or_insert_with(|| nodes.unwrap_or_else(|| Arc::new(Nodes::new(&revision.manifest.files))));
        let nodes = nodes.clone();
        let used = before.map(|before| before.used.clone()).unwrap_or_default();
        let first = numbers.of_revision(key, info_hash, nodes.len());
        let mtime = revision.manifest.created_at.as_deref().and_then(parse_time).unwrap_or(*mounted_at);
        let of = publisher.map(str::to_owned);
        if of.is_none() {
            self.torrents.insert(info_hash);
        }
        self.placements.insert(first, Placement { parent, first, revision, nodes, mtime, of, used });
        first
    }

    /// Enters a link from another name of a model to its directory, if that is shown and no other entry has the name.
    fn place_alias(&mut self, alias: &ModelRef, model: &ModelRef, numbers: &InodeNumbers) {
        let is_shown = |placement: &Placement| {
            let manifest = &placement.revision.manifest;
            placement.of.is_none() && manifest.name == model.name && manifest.version == model.revision
        };
        if !self.placements.values().any(is_shown) {
            return;
        }
        let entry = |model: &ModelRef| {
            if model.revision.is_default() {
                model.name.name().to_owned()
            } else {
                format!("{}@{}", model.name.name(), model.revision)
            }
        };
        let org = self.org(None, &alias.name, numbers);
        if self.dirs.get(&org).is_some_and(|dir| {
            let mut entries = dir.entries.iter().chain(&dir.hidden);
            entries.any(|known| known.name == entry(alias))
        }) {
            return;
        }
        let ino = numbers.of_path(&format!("{alias}\0alias"));
        self.links.insert(ino, format!("../{}/{}", model.name.org(), entry(model)));
        self.enter(org, TopEntry { name: entry(alias), ino, is_dir: false }, false);
    }

    /// The inode with a number; none if no such inode is shown.
    pub fn find(&self, ino: Ino) -> Option<InodeRef<'_>> {
        if let Some(dir) = self.dirs.get(&ino) {
            return Some(InodeRef::Top(dir));
        }
        if let Some(target) = self.links.get(&ino) {
            return Some(InodeRef::Link(target));
        }
        if let Some(text) = self.texts.get(&ino) {
            return Some(InodeRef::Text(text));
        }
        let (_, placement) = self.placements.range(..=ino).next_back()?;
        let index = ino.0 - placement.first.0;
        let node = placement.nodes.get(index)?;
        Some(InodeRef::Inside(placement, index as u32, node))
    }

    /// The made-up info hash of a model that is shown here as read from a hub, and that `next` replaces with the same files.
    fn hub_form_of(&self, publisher: Option<&str>, next: &StoredRevision) -> Option<InfoHash> {
        if next.hub.is_some() {
            return None;
        }
        let is_former = |placement: &&Placement| {
            let shown = &placement.revision;
            shown.hub.is_some()
                && placement.of.as_deref() == publisher
                && shown.manifest.name == next.manifest.name
                && shown.manifest.version == next.manifest.version
        };
        let former = self.placements.values().find(is_former)?;
        let same = former.revision.manifest.files.iter().map(|file| (&file.path, file.size)).eq(next
            .manifest
            .files
            .iter()
            .map(|file| (&file.path, file.size)));
        same.then_some(former.revision.manifest.torrent.info_hash)
    }

    /// Whether a revision with this torrent is shown under its name.
    pub fn shows(&self, info_hash: &InfoHash) -> bool {
        self.torrents.contains(info_hash)
    }

    /// All shown revisions.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.placements.values()
    }

    /// Number of directories and links above the revisions, without those below `.by`.
    pub fn top_len(&self) -> u64 {
        let plain = |dir: &&TopDir| !matches!(dir.place, TopPath::By | TopPath::Of(..));
        let dirs = self.dirs.values().filter(plain);
        dirs.map(|dir| 1 + dir.entries.iter().chain(&dir.hidden).filter(|e| !e.is_dir).count() as u64).sum()
    }

    /// Number of hard links. A directory has 2, and one more for each directory in it, as usual on Unix.
    pub fn nlink(&self, found: &InodeRef<'_>) -> u32 {
        match found {
            InodeRef::Top(dir) => 2 + dir.entries.iter().filter(|e| e.is_dir).count() as u32,
            InodeRef::Inside(_, _, ListingNode { kind: NodeKind::Dir { subdirs, .. }, .. }) => 2 + subdirs,
            InodeRef::Link(_) | InodeRef::Text(_) | InodeRef::Inside(..) => 1,
        }
    }
}

/// State shared by all calls of [`View::place`] while a view is built.
struct Placing<'a> {
    previous: Option<&'a View>,
    numbers: &'a InodeNumbers,
    mounted_at: SystemTime,
    /// Lists of nodes built so far. A revision that is shown at two paths has only one list.
    nodes: HashMap<InfoHash, Arc<Nodes>>,
}

/// The only known revision of a model, which the name without a revision means, too. Not one that is read from a hub: there the
/// name means the default branch, which can be looked up.
fn only(revisions: &BTreeMap<Revision, Arc<StoredRevision>>) -> Option<&Arc<StoredRevision>> {
    let mut all = revisions.values();
    let first = all.next().filter(|revision| revision.hub.is_none());
    first.filter(|_| all.next().is_none())
}

fn enter_name(names: &mut ByName, revision: &Arc<StoredRevision>) {
    let manifest = &revision.manifest;
    names.entry(manifest.name.clone()).or_default().insert(manifest.version.clone(), revision.clone());
}

/// The path, below the directory of a publisher if one is given.
fn below(publisher: Option<&str>, place: TopPath) -> TopPath {
    match publisher {
        Some(publisher) => TopPath::Of(publisher.to_owned(), Box::new(place)),
        None => place,
    }
}

/// Parses an RFC 3339 time; none for times before 1970.
fn parse_time(text: &str) -> Option<SystemTime> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    let since_epoch = Duration::try_from(timestamp.as_duration()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_since_1970_are_parsed() {
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        assert_eq!(parse_time("1970-01-02T00:00:00Z"), Some(day));
        assert_eq!(parse_time("1970-01-02T02:00:00+02:00"), Some(day));
        assert_eq!(parse_time("1969-12-31T00:00:00Z"), None);
        assert_eq!(parse_time("yesterday"), None);
    }
}
