//! Models for tests: fetched, published and listed.

use super::*;

pub(super) type Files<'a> = &'a [(&'a str, &'a [u8])];

/// All files in a directory, hidden ones too, as (path, bytes).
pub(super) fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, top: &Path, out: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, top, out);
            } else {
                out.push((
                    path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                ));
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, dir, &mut out);
    out.sort();
    out
}

/// The files of a published model, without the manifest copy.
pub(super) fn published(dir: &Path) -> Vec<(String, Vec<u8>)> {
    tree(dir).into_iter().filter(|(path, _)| path != Paths::MODEL_MANIFEST).collect()
}

pub(super) fn expected(files: Files) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = files.iter().map(|(p, b)| ((*p).to_owned(), b.to_vec())).collect();
    all.sort();
    all
}

pub(super) fn arrive_all(revision: &StoredRevision, files: Files) {
    for (content, (_, bytes)) in revision.contents.iter().zip(files) {
        if !content.is_complete() {
            arrive(content, bytes, 0..bytes.len() as u64);
        }
    }
}

pub(super) fn all(revision: &StoredRevision) -> Vec<usize> {
    (0..revision.contents.len()).collect()
}

/// Fetches a model as `get` does.
pub(super) fn get(home: &Home, name: &str, files: Files, dest: &Path) -> (Arc<Store>, Arc<StoredRevision>) {
    let store = home.store();
    let revision = store.revision(manifest(name, files)).unwrap();
    store.staging().stage(&revision, dest).unwrap();
    arrive_all(&revision, files);
    store.staging().publish(&revision, &all(&revision), dest).unwrap();
    (store, revision)
}
