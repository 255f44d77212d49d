//! The tree, tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::attr::{Attr, InodeKind, Owner};
use super::inode::Ino;
use super::top_path::MountLayout;
use super::tree::{Lookup, PublisherTrust, Tree};
use super::tree_error::TreeError;
use super::view::ShownModels;
use crate::model::{BLOCK_LEN, FileEntry, Manifest, ModelRef, PiecesRoot, PublisherKey, Sha256Digest};
use crate::paths::Paths;
use crate::store::{Store, StoredRevision};

struct Shop {
    store: Arc<Store>,
    _dir: tempfile::TempDir,
}

fn shop() -> Shop {
    let dir = tempfile::tempdir().unwrap();
    Shop { store: Store::open(&Paths::below(&dir.path().join("base"))).unwrap(), _dir: dir }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

impl Shop {
    /// A revision `org/name@revision` with files of these paths and sizes.
    fn revision(&self, model: &str, files: &[(&str, u64)]) -> Arc<StoredRevision> {
        self.revision_of(PublisherKey(hash("publisher")), model, files)
    }

    /// The same for a given publisher.
    fn revision_of(
        &self,
        publisher: PublisherKey,
        model: &str,
        files: &[(&str, u64)],
    ) -> Arc<StoredRevision> {
        let model: ModelRef = model.parse().unwrap();
        let entries = files
            .iter()
            .map(|&(path, size)| {
                let root = (size > 0).then(|| PiecesRoot(hash(&format!("{path} {size}"))));
                FileEntry::new(path, size, Some(Sha256Digest(hash(path))), root)
            })
            .collect();
        let mut manifest = Manifest::new(model.name, model.revision, 65536, entries).unwrap();
        manifest.created_at = Some("2001-09-09T01:46:40Z".to_owned());
        manifest.publisher = Some(publisher);
        self.store.revision(Arc::new(manifest)).unwrap()
    }
}

fn tree() -> Tree {
    Tree::new(Owner { uid: 7, gid: 8, mounted_at: SystemTime::UNIX_EPOCH }, MountLayout::Plain)
}

/// Follows a path from the root.
fn walk(tree: &Tree, path: &str) -> Option<Attr> {
    path.split('/').try_fold(tree.attr(Ino::ROOT).unwrap(), |dir, name| {
        match tree.lookup(dir.ino, OsStr::new(name)).unwrap() {
            Lookup::Present { attr, .. } => Some(attr),
            Lookup::Absent(_) | Lookup::Unknown(_) => None,
        }
    })
}

fn list(tree: &Tree, ino: Ino) -> Vec<String> {
    let dir = tree.open_dir(ino).unwrap();
    (0..).map_while(|position| Some(dir.entry(position)?.name)).collect()
}

fn list_at(tree: &Tree, path: &str) -> Vec<String> {
    list(tree, walk(tree, path).unwrap().ino).split_off(2)
}

#[test]
fn models_datasets_and_revisions_are_shown() {
    let shop = shop();
    let tree = tree();
    assert_eq!(list(&tree, Ino::ROOT), [".", ".."]);
    tree.publish(vec![
        shop.revision("org/a", &[("x", 1)]),
        shop.revision("org/a@v1", &[("x", 2)]),
        shop.revision("org/lone@v2", &[("y", 3)]),
        shop.revision("org/two@v1", &[("y", 3)]),
        shop.revision("org/two@v2", &[("y", 4)]),
        shop.revision("datasets/org/a", &[("z", 5)]),
    ]);
    assert_eq!(list(&tree, Ino::ROOT), [".", "..", "datasets", "org"]);
    assert_eq!(list_at(&tree, "org"), ["a", "a@v1", "lone", "lone@v2", "two@v1", "two@v2"]);
    assert_eq!(list_at(&tree, "datasets/org"), ["a"]);
    assert_eq!(walk(&tree, "org/a/x").unwrap().size, 1);
    assert_eq!(walk(&tree, "org/a@v1/x").unwrap().size, 2);
    assert_eq!(walk(&tree, "datasets/org/a/z").unwrap().size, 5);
    assert!(walk(&tree, "org/two").is_none(), "no revision of two is the default");
    // The only revision has a link, and so has `@main`, which is not listed.
    let lone = walk(&tree, "org/lone").unwrap();
    assert_eq!((lone.kind, tree.link(lone.ino).as_deref()), (InodeKind::Link, Ok("lone@v2")));
    assert_eq!(tree.link(walk(&tree, "org/a@main").unwrap().ino).as_deref(), Ok("a"));
}

#[test]
fn executable_files_show_their_bit() {
    let shop = shop();
    let tree = tree();
    let mut manifest = Manifest::clone(&shop.revision("org/a", &[("run", 10), ("text", 20)]).manifest);
    manifest.files[0].executable = true;
    tree.publish(vec![shop.store.revision(Arc::new(manifest)).unwrap()]);
    let modes = ["org/a/run", "org/a/text"].map(|path| walk(&tree, path).unwrap().perm);
    assert_eq!(modes, [0o555, 0o444]);
}

#[test]
fn attributes_match_the_stored_files() {
    let shop = shop();
    let tree = tree();
    let revision = shop.revision("org/a", &[("dir/sub/f", 3 * BLOCK_LEN), ("dir/g", 100), ("empty", 0)]);
    tree.publish(vec![revision.clone()]);
    let file = walk(&tree, "org/a/dir/sub/f").unwrap();
    assert_eq!((file.kind, file.perm, file.nlink, file.blocks), (InodeKind::File, 0o444, 1, 1));
    assert_eq!((file.uid, file.gid), (7, 8));
    assert_eq!(file.mtime, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    assert!(file.ttl <= Duration::from_secs(1), "the blocks of an incomplete file change");
    let dir = walk(&tree, "org/a/dir").unwrap();
    assert_eq!((dir.kind, dir.perm, dir.nlink), (InodeKind::Dir, 0o555, 3));
    assert_eq!(walk(&tree, "org/a").unwrap().nlink, 3);
    assert_eq!(walk(&tree, "org").unwrap().nlink, 3);

    let totals = tree.totals();
    assert_eq!((totals.blocks, totals.missing), (97, 97), "49252 bytes are 97 blocks, none of them cached");
    let content = &revision.contents[1];
    fs::create_dir_all(content.path().parent().unwrap()).unwrap();
    fs::write(content.path(), vec![0; 3 * BLOCK_LEN as usize]).unwrap();
    content.mark_verified(0..BLOCK_LEN).unwrap();
    assert_eq!(walk(&tree, "org/a/dir/sub/f").unwrap().blocks, BLOCK_LEN / 512);
    assert_eq!(tree.totals().missing, 97 - BLOCK_LEN / 512);
    content.mark_verified(0..3 * BLOCK_LEN).unwrap();
    let file = walk(&tree, "org/a/dir/sub/f").unwrap();
    assert_eq!(file.blocks, 3 * BLOCK_LEN / 512);
    assert!(file.ttl > Duration::from_secs(60), "the attributes of a complete file are cached");
    // Root, org, its link @main, the model, dir, sub and three files.
    assert_eq!(tree.totals().inodes, 9);
}

#[test]
fn only_names_within_a_revision_have_a_long_ttl() {
    let shop = shop();
    let tree = tree();
    tree.publish(vec![shop.revision("org/a", &[("dir/f", 1)])]);
    let hours = Duration::from_secs(3600);
    let model = walk(&tree, "org/a").unwrap().ino;
    let ttl = |ino, name: &str| match tree.lookup(ino, OsStr::new(name)).unwrap() {
        Lookup::Present { ttl, .. } => ttl,
        Lookup::Absent(ttl) => ttl,
        Lookup::Unknown(requested) => panic!("{requested} is unknown"),
    };
    assert!(ttl(model, "dir") > hours);
    assert!(ttl(model, "absent") > hours);
    assert!(ttl(Ino::ROOT, "org") <= Duration::from_secs(1));
    assert_eq!(ttl(Ino::ROOT, "absent"), Duration::ZERO);
    assert_eq!(ttl(walk(&tree, "org").unwrap().ino, "absent"), Duration::ZERO);
}

#[test]
fn numbers_are_kept_and_stale_after_removal() {
    let shop = shop();
    let tree = tree();
    let a = || shop.revision("org/a", &[("dir/f", 1), ("g", 2)]);
    let b = || shop.revision("org/b", &[("h", 3)]);
    tree.publish(vec![a(), b()]);
    let paths = ["org", "org/a", "org/a/dir", "org/a/dir/f", "org/a/g", "org/b/h"];
    let numbers =
        |paths: &[&str]| -> Vec<Ino> { paths.iter().map(|p| walk(&tree, p).unwrap().ino).collect() };
    let before = numbers(&paths);
    tree.publish(vec![b(), a(), shop.revision("org/0", &[("x", 1)])]);
    assert_eq!(numbers(&paths), before);
    tree.publish(vec![b()]);
    assert_eq!(tree.attr(before[3]), Err(TreeError::Stale));
    assert_eq!(tree.file(before[3]).map(|f| f.file), Err(TreeError::Stale));
    assert_eq!(tree.lookup(before[1], OsStr::new("g")), Err(TreeError::Stale));
    assert!(walk(&tree, "org/a").is_none());
    assert_eq!(numbers(&paths[5..]), before[5..]);
    // Other content under the same name has other numbers. The same content gets its former numbers again.
    tree.publish(vec![shop.revision("org/a", &[("g", 3)])]);
    assert!(!before.contains(&walk(&tree, "org/a").unwrap().ino));
    tree.publish(vec![a(), b()]);
    assert_eq!(numbers(&paths), before);
}

#[test]
fn an_open_directory_lists_its_first_state() {
    let shop = shop();
    let tree = tree();
    let models = |names: &[&str]| names.iter().map(|n| shop.revision(n, &[("f", 1)])).collect::<Vec<_>>();
    tree.publish(models(&["org/b", "org/c", "org/d"]));
    let dir = tree.open_dir(walk(&tree, "org").unwrap().ino).unwrap();
    let first: Vec<_> = (0..3).map(|p| dir.entry(p).unwrap().name).collect();
    tree.publish(models(&["org/a", "org/d"]));
    let rest: Vec<_> = (3..).map_while(|p| Some(dir.entry(p)?.name)).collect();
    assert_eq!((first, rest), (vec![".".into(), "..".into(), "b".into()], vec!["c".into(), "d".into()]));
    assert_eq!(list_at(&tree, "org"), ["a", "d"]);
}

#[test]
fn a_filter_changes_listings_only() {
    let shop = shop();
    let tree = tree();
    let here = shop.revision("org/here@v1", &[("f", 3)]);
    tree.publish(vec![here, shop.revision("org/away", &[("f", 1)]), shop.revision("far/away", &[("f", 2)])]);
    tree.list_only(Arc::new(|revision: &StoredRevision| revision.manifest.name.name() == "here"));
    assert_eq!(list(&tree, Ino::ROOT), [".", "..", "org"]);
    assert_eq!(list_at(&tree, "org"), ["here", "here@v1"]);
    assert_eq!(walk(&tree, "far/away/f").unwrap().size, 2);
    tree.list_only(Arc::new(|_: &StoredRevision| true));
    assert_eq!(list_at(&tree, "org"), ["away", "here", "here@v1"]);
}

#[test]
fn files_and_model_directories_have_xattrs() {
    let shop = shop();
    let tree = tree();
    let revision = shop.revision("org/a", &[("dir/f", 100), ("empty", 0)]);
    tree.publish(vec![revision.clone()]);
    let value = |path, name| tree.xattr(walk(&tree, path).unwrap().ino, OsStr::new(name));
    assert_eq!(value("org/a/dir/f", "user.silmaril.sha256"), Ok(hex::encode(hash("dir/f"))));
    assert_eq!(value("org/a/dir/f", "user.silmaril.pieces_root"), Ok(hex::encode(hash("dir/f 100"))));
    assert_eq!(value("org/a/dir/f", "user.silmaril.cached_bytes"), Ok("0".to_owned()));
    let info_hash = revision.manifest.torrent.info_hash.to_string();
    assert_eq!(value("org/a/dir/f", "user.silmaril.info_hash"), Ok(info_hash.clone()));
    assert_eq!(value("org/a", "user.silmaril.info_hash"), Ok(info_hash));
    assert_eq!(value("org/a", "user.silmaril.revision"), Ok("main".to_owned()));
    assert_eq!(value("org/a", "user.silmaril.publisher"), Ok(hex::encode(hash("publisher"))));
    let absent = Err(TreeError::NoAttribute);
    assert_eq!(value("org/a/empty", "user.silmaril.pieces_root"), absent);
    assert_eq!(value("org/a/dir", "user.silmaril.info_hash"), absent);
    assert_eq!(value("org/a/dir/f", "security.capability"), absent);
    let names = |path| tree.xattr_names(walk(&tree, path).unwrap().ino).unwrap().len();
    assert_eq!(
        (names("org/a/dir/f"), names("org/a/empty"), names("org/a"), names("org/a/dir")),
        (6, 5, 4, 0)
    );
    assert_eq!(value("org/a/dir/f", "user.silmaril.proof"), Ok("piece".to_owned()));
}

/// Knows the alias `bob`; every name is pinned to this key.
struct Bob(PublisherKey);

impl PublisherTrust for Bob {
    fn is_pinned(&self, manifest: &Manifest) -> bool {
        manifest.publisher == Some(self.0)
    }

    fn find_publisher(&self, text: &str) -> Option<PublisherKey> {
        (text == "bob").then_some(self.0)
    }
}

#[test]
fn each_publisher_of_a_name_is_read_by_fingerprint() {
    let shop = shop();
    let tree = tree();
    let (ann, bob) = (PublisherKey(hash("ann")), PublisherKey(hash("bob")));
    tree.set_trust(Arc::new(Bob(bob)));
    let shown = || ShownModels {
        revisions: vec![
            shop.revision_of(ann, "org/m", &[("f", 1)]),
            shop.revision("datasets/org/d", &[("f", 4)]),
        ],
        disputed: BTreeSet::default(),
        by_publisher: vec![shop.revision_of(bob, "org/m", &[("f", 2)])],
        ..ShownModels::default()
    };
    tree.publish(shown());
    let size = |path: &str| walk(&tree, path).map(|attr| attr.size);
    let by = |key: PublisherKey, path: &str| format!(".by/{}/{path}", key.fingerprint());
    assert_eq!(size("org/m/f"), Some(1));
    assert_eq!(size(&by(ann, "org/m/f")), Some(1));
    assert_eq!(size(&by(bob, "org/m/f")), Some(2));
    assert_eq!(size(&by(PublisherKey(hash("publisher")), "datasets/org/d/f")), Some(4));
    assert_eq!(size(&by(bob, "datasets")), None);
    // Programs that walk the tree see each model once.
    assert_eq!(list(&tree, Ino::ROOT), [".", "..", "datasets", "org"]);
    assert_eq!(list_at(&tree, ".by").len(), 3);
    assert_eq!(tree.totals().blocks, 1, "5 bytes");
    assert_eq!(tree.attr(Ino::ROOT).unwrap().nlink, 4);
    // Other names of a publisher are links.
    for text in [bob.to_string(), bob.fingerprint().replace('-', ""), "bob".to_owned()] {
        let link = walk(&tree, &format!(".by/{text}")).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(link.kind, InodeKind::Link);
        assert_eq!(tree.link(link.ino), Ok(bob.fingerprint()));
        assert_eq!(tree.attr(link.ino).unwrap().kind, InodeKind::Link);
        assert_eq!(tree.lookup(link.ino, OsStr::new("org")), Err(TreeError::NotDir));
    }
    assert!(walk(&tree, ".by/eve").is_none());
    let trust = |path: &str| tree.xattr(walk(&tree, path).unwrap().ino, OsStr::new("user.silmaril.trust"));
    assert_eq!(trust("org/m"), Ok("not pinned".to_owned()));
    assert_eq!(trust(&by(bob, "org/m/f")), Ok("pinned".to_owned()));
    let before = walk(&tree, &by(bob, "org/m/f")).unwrap().ino;
    tree.publish(shown());
    assert_eq!(walk(&tree, &by(bob, "org/m/f")).unwrap().ino, before);
}

#[test]
fn a_disputed_name_is_refused_unless_it_was_read_before() {
    let shop = shop();
    let tree = tree();
    let ann = PublisherKey(hash("ann"));
    let shown = |disputed: &[&str]| ShownModels {
        revisions: vec![
            shop.revision_of(ann, "org/read", &[("f", 1)]),
            shop.revision_of(ann, "org/unread", &[("f", 2)]),
        ],
        disputed: disputed.iter().map(|model| model.parse().unwrap()).collect(),
        by_publisher: Vec::new(),
        ..ShownModels::default()
    };
    tree.publish(shown(&[]));
    let inside = walk(&tree, "org/read/f").unwrap().ino;
    walk(&tree, "org/unread").unwrap();
    let kept = tree.publish(shown(&["org/read", "org/unread"]));
    assert_eq!(kept.into_iter().map(|model| model.to_string()).collect::<Vec<_>>(), ["org/read"]);
    assert_eq!(walk(&tree, "org/read/f").unwrap().ino, inside);
    assert!(tree.file(inside).is_ok());
    let org = walk(&tree, "org").unwrap().ino;
    for name in ["unread", "unread@main"] {
        assert_eq!(tree.lookup(org, OsStr::new(name)), Err(TreeError::Disputed), "{name}");
    }
    assert_eq!(list_at(&tree, "org"), ["read"]);
    assert_eq!(walk(&tree, &format!(".by/{}/org/unread/f", ann.fingerprint())).unwrap().size, 2);
    // The name keeps its publisher as long as the mount exists.
    assert_eq!(tree.publish(shown(&["org/read", "org/unread"])).len(), 1);
    assert!(tree.publish(shown(&[])).is_empty());
    assert_eq!(walk(&tree, "org/unread/f").unwrap().size, 2);
}

#[test]
fn operations_on_the_wrong_kind_are_errors() {
    let shop = shop();
    let tree = tree();
    tree.publish(vec![shop.revision("org/a", &[("f", 1)])]);
    let file = walk(&tree, "org/a/f").unwrap().ino;
    let dir = walk(&tree, "org/a").unwrap().ino;
    assert_eq!(tree.lookup(file, OsStr::new("x")), Err(TreeError::NotDir));
    assert_eq!(tree.open_dir(file).err(), Some(TreeError::NotDir));
    assert_eq!(tree.file(dir).err(), Some(TreeError::IsDir));
    assert_eq!(tree.link(dir), Err(TreeError::NotLink));
    assert_eq!(tree.attr(Ino(u64::MAX)), Err(TreeError::Stale));
    let not_utf8 = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    assert!(matches!(tree.lookup(dir, not_utf8), Ok(Lookup::Absent(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any paths a walk through the listings finds exactly the files, with their sizes and parents.
    #[test]
    fn a_walk_finds_exactly_the_files(
        files in proptest::collection::btree_map("[a-c]{1,2}(/[a-c.]{1,2}x){0,3}", 0u64..1000, 1..40)
    ) {
        // No path may run through a file.
        let files: BTreeMap<String, u64> = files
            .iter()
            .filter(|(path, _)| !files.keys().any(|other| other.starts_with(&format!("{path}/"))))
            .map(|(path, size)| (path.clone(), *size))
            .collect();
        let shop = shop();
        let tree = tree();
        let list_of: Vec<(&str, u64)> = files.iter().map(|(p, s)| (p.as_str(), *s)).collect();
        tree.publish(vec![shop.revision("org/a", &list_of)]);
        let mut found = BTreeMap::new();
        let mut seen = std::collections::HashSet::new();
        let mut open = vec![(String::new(), walk(&tree, "org/a").unwrap().ino, walk(&tree, "org").unwrap().ino)];
        while let Some((path, ino, parent)) = open.pop() {
            prop_assert!(seen.insert(ino));
            let dir = tree.open_dir(ino).unwrap();
            let entries: Vec<_> = (0..).map_while(|p| dir.entry(p)).collect();
            prop_assert_eq!((entries[0].attr.ino, entries[1].attr.ino), (ino, parent));
            let subdirs = entries[2..].iter().filter(|e| e.attr.kind == InodeKind::Dir).count();
            prop_assert_eq!(tree.attr(ino).unwrap().nlink as usize, 2 + subdirs);
            for entry in &entries[2..] {
                let below = format!("{path}{}", entry.name);
                match entry.attr.kind {
                    InodeKind::Dir => open.push((format!("{below}/"), entry.attr.ino, ino)),
                    _ => {
                        prop_assert!(seen.insert(entry.attr.ino));
                        found.insert(below, entry.attr.size);
                    }
                }
            }
        }
        prop_assert_eq!(found, files);
    }
}
