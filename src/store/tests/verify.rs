//! Tests of verification and adoption, with real hashes.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::models::published;
use super::*;
use crate::model::hash::hash_file;
use crate::model::merkle::{self, PieceLayers};
use crate::model::{FileEntry, PieceHashes};
use crate::store::adopt::Adopted;
use crate::store::verify::VerifyReport;

pub(super) const PIECE: u64 = 65_536;

/// A model of three files: several pieces, one piece, none.
pub(super) struct Real {
    pub manifest: Arc<Manifest>,
    layers: PieceLayers,
    pub files: Vec<(&'static str, Vec<u8>)>,
}

pub(super) fn real(home: &Home, dir: &Path) -> Real {
    let files = vec![("big", bytes(300_000, 1)), ("empty", Vec::new()), ("small", bytes(20_000, 2))];
    fs::create_dir_all(dir).unwrap();
    let mut layers = PieceLayers::default();
    let mut entries = Vec::new();
    for (path, bytes) in &files {
        fs::write(dir.join(path), bytes).unwrap();
        let hashes = hash_file(&dir.join(path), PIECE as u32, UNWATCHED).unwrap();
        if let Some(root) = hashes.pieces_root {
            layers.insert(root, bytes.len() as u64, PIECE as u32, hashes.layer).unwrap();
        }
        entries.push(FileEntry::new(*path, bytes.len() as u64, Some(hashes.sha256), hashes.pieces_root));
    }
    let manifest = Manifest::new("o/m".parse().unwrap(), Default::default(), PIECE as u32, entries).unwrap();
    home.store()
        .torrents
        .save_metainfo(&manifest.torrent.info_hash, &manifest.metainfo(Some(&layers)))
        .unwrap();
    Real { manifest: Arc::new(manifest), layers, files }
}

/// Changes one byte of a file without changing its stamp.
pub(super) fn rot(path: &Path, at: u64) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"!", at).unwrap();
    file.set_modified(time).unwrap();
}

fn verify(store: &Store, revision: &StoredRevision, file: usize) -> VerifyReport {
    let layers = store.torrents.layers(&revision.manifest).unwrap();
    let known = store.torrents.piece_hashes(&revision.manifest, layers).unwrap();
    store.verify(revision, file, &known, UNWATCHED).unwrap()
}

impl Real {
    /// Removes the metainfo, and saves a part of the layer of the big file as the engine does: the hashes of these
    /// pieces, and the upper nodes.
    fn know_only(&self, home: &Home, pieces: &[usize]) {
        let layer = self.layers.get(&self.manifest.files[0].pieces_root.unwrap()).unwrap();
        let height = merkle::piece_height(PIECE as u32);
        let above = |from: usize, width: usize| {
            merkle::root(layer[from..layer.len().min(from + width)].to_vec(), height, width)
        };
        let mut nodes = vec![(1, above(0, 4)), (2, above(4, 4)), (3, above(0, 2)), (4, above(2, 2))];
        nodes.extend(pieces.iter().map(|&piece| (7 + piece, layer[piece])));
        let mut mask = [0u8; 2];
        nodes.iter().for_each(|(node, _)| mask[node / 8] |= 0x80 >> (node % 8));
        let hashes = nodes.iter().flat_map(|(_, hash)| *hash).collect::<Vec<_>>();
        let mut packed = format!("d5:filesld6:hashes{}:", hashes.len()).into_bytes();
        packed.extend(hashes);
        packed.extend(b"4:mask2:");
        packed.extend(mask);
        packed.extend(b"eee");
        let info_hash = self.manifest.torrent.info_hash;
        fs::remove_file(home.paths.metainfo(&info_hash)).unwrap();
        fs::write(home.paths.resume(&info_hash), packed).unwrap();
    }
}

#[test]
fn rotten_byte_of_a_shared_file_costs_one_piece() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    let revision = store.revision(real.manifest.clone()).unwrap();
    for file in [0, 2] {
        let good = VerifyReport {
            checked: real.files[file].1.len() as u64,
            sha256_fits: Some(true),
            ..Default::default()
        };
        assert_eq!(verify(&store, &revision, file), good);
    }
    rot(&dir.join("big"), 2 * PIECE + 5);
    let before = fs::read(dir.join("big")).unwrap();
    let report = verify(&store, &revision, 0);
    assert_eq!((report.damaged, report.sha256_fits), (vec![2 * PIECE..3 * PIECE], None));
    let content = &revision.contents[0];
    assert_eq!(content.missing_ranges(0..300_000), [2 * PIECE..3 * PIECE]);
    assert!(content.path().starts_with(home.paths.cache()));
    assert_eq!(content.read(0..PIECE).unwrap().unwrap(), &real.files[0].1[..PIECE as usize]);
    assert_eq!(fs::read(dir.join("big")).unwrap(), before);
    drop((revision, store));
    // The damage is remembered after a kill and after a power cut.
    for boot in [1, 2] {
        let store = Store::open_in_boot(&home.paths, [boot; 16]).unwrap();
        let revision = store.revision(real.manifest.clone()).unwrap();
        assert_eq!(revision.contents[0].missing_ranges(0..300_000), [2 * PIECE..3 * PIECE]);
    }
}

#[test]
fn verification_removes_bad_pieces_of_a_partly_cached_file() {
    let home = home();
    let real = real(&home, &home.dir.path().join("source"));
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let (big, small) = (&revision.contents[0], &revision.contents[2]);
    arrive(big, &real.files[0].1, 0..2 * PIECE + 16_384);
    arrive(big, &real.files[0].1, 4 * PIECE..300_000);
    arrive(small, &real.files[2].1, 0..20_000);
    rot(&big.path(), PIECE);
    rot(&small.path(), 19_999);
    let report = verify(&store, &revision, 0);
    assert_eq!(report.damaged, [PIECE..2 * PIECE]);
    assert_eq!((report.checked, report.unchecked), (2 * PIECE + 300_000 - 4 * PIECE, 16_384));
    assert!(!big.has(PIECE..PIECE + 1) && big.has(0..PIECE) && big.has(2 * PIECE..2 * PIECE + 16_384));
    assert_eq!(verify(&store, &revision, 2).damaged, [0..20_000]);
    assert_eq!(small.cached_bytes(), 0);
}

#[test]
fn flipped_byte_is_found_with_some_piece_hashes() {
    let home = home();
    let real = real(&home, &home.dir.path().join("source"));
    real.know_only(&home, &[0, 1]);
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let big = &revision.contents[0];
    arrive(big, &real.files[0].1, 0..3 * PIECE);
    rot(&big.path(), PIECE + 9);
    rot(&big.path(), 2 * PIECE);
    let report = verify(&store, &revision, 0);
    assert_eq!(
        (report.damaged, report.checked, report.unchecked),
        (vec![PIECE..2 * PIECE], 2 * PIECE, PIECE)
    );
    assert_eq!(big.missing_ranges(0..300_000), [PIECE..2 * PIECE, 3 * PIECE..300_000]);
}

#[test]
fn verification_proves_bytes_of_an_older_version_or_drops_them() {
    let home = home();
    let real = real(&home, &home.dir.path().join("source"));
    real.know_only(&home, &[0, 1]);
    {
        let store = home.store();
        let revision = store.revision(real.manifest.clone()).unwrap();
        arrive(&revision.contents[0], &real.files[0].1, 0..3 * PIECE);
        rot(&revision.contents[0].path(), PIECE + 9);
        outdate(&revision.contents[0].path());
    }
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let big = &revision.contents[0];
    let report = verify(&store, &revision, 0);
    assert_eq!(
        (report.damaged, report.checked, report.unchecked),
        (vec![PIECE..2 * PIECE], 2 * PIECE, PIECE)
    );
    assert_eq!(big.missing_ranges(0..300_000), [PIECE..300_000]);
    assert_eq!(big.read(0..PIECE).unwrap().unwrap(), &real.files[0].1[..PIECE as usize]);
    assert_eq!((big.unproved_pieces(PIECE), big.unproved_bytes()), (vec![2], PIECE));
}

#[test]
fn whole_file_of_an_older_version_is_proved_by_its_root() {
    for damage in [false, true] {
        let home = home();
        let real = real(&home, &home.dir.path().join("source"));
        real.know_only(&home, &[]);
        {
            let store = home.store();
            let revision = store.revision(real.manifest.clone()).unwrap();
            arrive(&revision.contents[0], &real.files[0].1, 0..300_000);
            outdate(&revision.contents[0].path());
        }
        let store = home.store();
        let revision = store.revision(real.manifest.clone()).unwrap();
        if damage {
            rot(&revision.contents[0].path(), 7);
        }
        let report = verify(&store, &revision, 0);
        let expected = match damage {
            false => VerifyReport { checked: 300_000, sha256_fits: Some(true), ..Default::default() },
            true => VerifyReport { unchecked: 300_000, ..Default::default() },
        };
        assert_eq!((report, revision.contents[0].is_complete()), (expected, !damage));
    }
}

#[test]
fn without_piece_hashes_one_wrong_byte_removes_the_file() {
    let home = home();
    let real = real(&home, &home.dir.path().join("source"));
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    arrive(&revision.contents[0], &real.files[0].1, 0..300_000);
    rot(&revision.contents[0].path(), 7);
    let unknown = PieceHashes::new(real.manifest.clone(), PieceLayers::default());
    let report = store.verify(&revision, 0, &unknown, UNWATCHED).unwrap();
    assert_eq!((report.damaged, revision.contents[0].cached_bytes()), (vec![0..300_000], 0));
}

#[test]
fn files_without_records_are_adopted_after_hashing() {
    let home = home();
    let dir = home.paths.models.join("o/m");
    let real = real(&home, &dir);
    fs::write(dir.join("small"), bytes(19_999, 2)).unwrap();
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    assert_eq!(store.placed().dirs_of(&real.manifest), [fs::canonicalize(&dir).unwrap()]);
    assert_eq!(store.placed().unverified(&revision, &dir), [0], "the small file has another length");
    assert!(!revision.contents[0].is_complete(), "the right length proves nothing");
    let found = store.placed().adopt(&revision, &[0], &dir, &real.layers, UNWATCHED).unwrap();
    assert_eq!(found, Adopted { right: vec![0], wrong: vec![] });
    assert!(revision.contents[0].is_complete());
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    assert_eq!(revision.contents[0].path(), fs::canonicalize(&dir).unwrap().join("big"));
}

#[test]
fn edited_file_keeps_its_good_pieces_and_is_repaired() {
    let home = home();
    let source = home.dir.path().join("source");
    let real = real(&home, &source);
    let dest = home.paths.models.join("o/m");
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    for (content, (_, bytes)) in revision.contents.iter().zip(&real.files).filter(|(c, _)| !c.is_empty()) {
        arrive(content, bytes, 0..bytes.len() as u64);
    }
    store.staging().publish(&revision, &[0, 1, 2], &dest).unwrap();
    drop((revision, store));

    fs::File::options().write(true).open(dest.join("big")).unwrap().write_all_at(b"!", PIECE).unwrap();
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    assert_eq!(revision.contents[0].cached_bytes(), 0);
    let layers = store.torrents.layers(&real.manifest).unwrap();
    let unverified = store.placed().unverified(&revision, &dest);
    let found = store.placed().adopt(&revision, &unverified, &dest, &layers, UNWATCHED).unwrap();
    assert_eq!(found, Adopted { right: vec![], wrong: vec![0] });
    assert_eq!(revision.contents[0].missing_ranges(0..300_000), [PIECE..2 * PIECE]);
    store.staging().stage(&revision, &dest).unwrap();
    arrive(&revision.contents[0], &real.files[0].1, PIECE..2 * PIECE);
    store.staging().publish(&revision, &[0, 1, 2], &dest).unwrap();
    let mut got = published(&dest);
    let (edited, _) = got.remove(1);
    assert_eq!(edited, "big.edited");
    let expected: Vec<_> = real.files.iter().map(|(p, b)| ((*p).to_owned(), b.clone())).collect();
    assert_eq!(got, expected);
    assert!(fs::symlink_metadata(dest.join(Paths::MODEL_MANIFEST)).is_ok());
}

#[test]
fn adoption_keeps_the_record_of_a_replaced_file() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let small = &real.files[2].1;
    // The last file is hashed: the first one is exchanged for another one with the same bytes, and recorded.
    let exchange = |bytes: u64| {
        if bytes == small.len() as u64 && calls.fetch_add(1, Ordering::Relaxed) == 0 {
            fs::rename(dir.join("big"), home.dir.path().join("old")).unwrap();
            fs::write(dir.join("big"), &real.files[0].1).unwrap();
            record(&store, &real.manifest, &dir).unwrap();
        }
    };
    let never = std::sync::atomic::AtomicBool::new(false);
    let watch = crate::model::hash::Control { progress: &exchange, cancel: &never };
    let found = store.placed().adopt(&revision, &[0, 1, 2], &dir, &real.layers, watch).unwrap();
    assert_eq!((found.right, found.wrong), (vec![1, 2], vec![]));
    assert!(store.placed().has_all(&real.manifest, &dir), "the record of the new file was lost");
    assert!(revision.is_complete());
    // A file that is gone is neither right nor wrong.
    fs::remove_file(dir.join("small")).unwrap();
    let found = store.placed().adopt(&revision, &[2], &dir, &real.layers, UNWATCHED).unwrap();
    assert_eq!(found, Adopted::default());
}
