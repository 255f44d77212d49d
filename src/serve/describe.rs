//! The JSON that describes models and files, in the form of the hub's API.
//!
//! Every file of a manifest is listed like a file in LFS, because a manifest has the SHA-256 of a file and not its git object.
//! The files of a model that is read from a hub are listed as the hub lists them. No entry names Xet, so clients fetch files by
//! plain requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::find::Found;
use crate::model::{FileEntry, GitOid, Identity, Kind, Manifest, ModelName};
use crate::store::StoredRevision;

/// The SHA-256 of no bytes.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The hash that names the bytes of a file: 64 hexadecimal digits. The SHA-256; for files of imported torrents, whose
/// manifest has none, the pieces root. For a file of git in a model that is read from a hub, the git object: 40 digits.
pub fn content_hash(revision: &StoredRevision, file: &FileEntry) -> String {
    if let Some(oid) = git_oid(revision, file) {
        return oid.to_string();
    }
    match (file.sha256, file.pieces_root) {
        (Some(sha256), _) => sha256.to_string(),
        (None, Some(root)) => root.to_string(),
        (None, None) => EMPTY.to_owned(),
    }
}

/// The git object that a hub lists for a file outside LFS.
fn git_oid(revision: &StoredRevision, file: &FileEntry) -> Option<GitOid> {
    match revision.hub.as_ref()?.listing.file(&file.path)?.identity {
        Identity::Git(oid) => Some(oid),
        Identity::Lfs(_) => None,
    }
}

/// The entity tag of a file.
pub fn etag(revision: &StoredRevision, file: &FileEntry) -> String {
    format!("\"{}\"", content_hash(revision, file))
}

/// The git object and the LFS object of a file. The latter is null for a file outside LFS.
fn objects(revision: &StoredRevision, file: &FileEntry) -> (String, Value) {
    if let Some(oid) = git_oid(revision, file) {
        return (oid.to_string(), Value::Null);
    }
    let hash = content_hash(revision, file);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hash}\nsize {}\n", file.size);
    let oid = GitOid::of_blob(pointer.as_bytes()).to_string();
    (oid, json!({"oid": hash, "sha256": hash, "size": file.size, "pointerSize": pointer.len()}))
}

/// The description of a revision. With `blobs`, each file has its size and hashes.
pub fn about(found: &Found, blobs: bool) -> Value {
    let manifest = &found.revision.manifest;
    let id = id(&manifest.name);
    let siblings: Vec<Value> = manifest
        .files
        .iter()
        .map(|file| {
            let mut sibling = json!({"rfilename": file.path});
            if blobs {
                let (oid, lfs) = objects(&found.revision, file);
                (sibling["blobId"], sibling["size"]) = (oid.into(), file.size.into());
                if !lfs.is_null() {
                    sibling["lfs"] = lfs;
                }
            }
            sibling
        })
        .collect();
    let mut tags = manifest.tags.clone();
    tags.extend(manifest.license.iter().map(|license| format!("license:{license}")));
    let time = time(manifest);
    let mut about = json!({
        "_id": found.commit[..24],
        "id": id,
        "author": manifest.name.org(),
        "sha": found.commit,
        "lastModified": time,
        "createdAt": time,
        "private": false,
        "gated": false,
        "disabled": false,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "siblings": siblings,
        "usedStorage": manifest.total_size,
        "cardData": card(manifest),
    });
    if manifest.name.kind() == Kind::Model {
        about["modelId"] = id.into();
        about["pipeline_tag"] = json!(manifest.card.pipeline_tag);
        about["library_name"] = json!(manifest.card.library_name);
        about["config"] = json!({
            "architectures": manifest.architecture.iter().collect::<Vec<_>>(),
            "model_type": manifest.model_type,
        });
        if let Some((dtype, parameters)) = manifest.dtype.as_ref().zip(manifest.parameters) {
            about["safetensors"] = json!({"parameters": {dtype.as_str(): parameters}, "total": parameters});
        }
    }
    about
}

fn card(manifest: &Manifest) -> Value {
    let mut card = json!({});
    if let Some(license) = &manifest.license {
        card["license"] = license.as_str().into();
    }
    if !manifest.card.base_model.is_empty() {
        card["base_model"] = json!(manifest.card.base_model);
    }
    if !manifest.card.languages.is_empty() {
        card["language"] = json!(manifest.card.languages);
    }
    card
}

/// The name without the kind.
pub fn id(name: &ModelName) -> String {
    name.hub_id()
}

/// The time of creation, in the form of the hub.
fn time(manifest: &Manifest) -> String {
    let parsed = manifest.created_at.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    parsed.unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// The branches and tags of a model. The first revision is also shown as `main` if it is the only one.
pub fn refs(revisions: &[Found]) -> Value {
    let branch = |found: &Found, name: &str| json!({"name": name, "ref": format!("refs/heads/{name}"), "targetCommit": found.commit});
    let mut branches: Vec<Value> =
        revisions.iter().map(|found| branch(found, found.revision.manifest.version.as_str())).collect();
    if let [only] = revisions
        && !only.revision.manifest.version.is_default()
    {
        branches.insert(0, branch(only, "main"));
    }
    json!({"branches": branches, "tags": [], "converts": []})
}

/// The list of commits of a revision: one, because a manifest has no history.
pub fn commits(found: &Found) -> Value {
    let manifest = &found.revision.manifest;
    json!([{
        "id": found.commit,
        "title": format!("{} at {}", manifest.name, manifest.version),
        "message": "",
        "date": time(manifest),
        "authors": [{"user": manifest.name.org()}],
    }])
}

/// The entries `range` of a directory in the order of their paths, and how many it has; with `recursive`, also of all directories
/// below it. None if there is no such directory.
pub fn tree(
    found: &Found,
    dir: &str,
    recursive: bool,
    expand: bool,
    range: Range<usize>,
) -> Option<(Vec<Value>, usize)> {
    let files = &found.revision.manifest.files;
    let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    let below: Vec<&FileEntry> = files.iter().filter(|file| file.path.starts_with(&prefix)).collect();
    if below.is_empty() {
        return None;
    }
    let mut entries: BTreeMap<&str, Option<&FileEntry>> = BTreeMap::new();
    for file in below {
        let rest = &file.path[prefix.len()..];
        let slashes = rest.match_indices('/').map(|(at, _)| &file.path[..prefix.len() + at]);
        entries.extend(slashes.take(if recursive { usize::MAX } else { 1 }).map(|dir| (dir, None)));
        if recursive || !rest.contains('/') {
            entries.insert(&file.path, Some(file));
        }
    }
    let shown = entries.iter().skip(range.start).take(range.len());
    let shown = shown.map(|(path, file)| match file {
        Some(file) => file_entry(found, file, expand),
        None => dir_entry(found, path, expand),
    });
    Some((shown.collect(), entries.len()))
}

/// The entries of single paths, in their order. Paths that do not exist are left out.
pub fn paths(found: &Found, paths: &[String], expand: bool) -> Vec<Value> {
    let files = &found.revision.manifest.files;
    let by_path: HashMap<&str, &FileEntry> = files.iter().map(|file| (file.path.as_str(), file)).collect();
    let parents = |file: &'_ FileEntry| file.path.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    let dirs: HashSet<&str> =
        files.iter().flat_map(|file| parents(file).into_iter().map(|at| &file.path[..at])).collect();
    let one = |path: &String| {
        let path = path.trim_matches('/');
        match by_path.get(path) {
            Some(file) => Some(file_entry(found, file, expand)),
            None => dirs.contains(path).then(|| dir_entry(found, path, expand)),
        }
    };
    paths.iter().filter_map(one).collect()
}

fn file_entry(found: &Found, file: &FileEntry, expand: bool) -> Value {
    let (oid, lfs) = objects(&found.revision, file);
    let mut entry = json!({"type": "file", "oid": oid, "size": file.size, "path": file.path});
    if !lfs.is_null() {
        entry["lfs"] = lfs;
    }
    expanded(found, entry, expand)
}

fn dir_entry(found: &Found, dir: &str, expand: bool) -> Value {
    let hash = Sha256::digest(format!("{}\0{dir}", found.commit));
    let entry = json!({"type": "directory", "oid": hex::encode(&hash[..20]), "size": 0, "path": dir});
    expanded(found, entry, expand)
}

fn expanded(found: &Found, mut entry: Value, expand: bool) -> Value {
    if expand {
        let manifest = &found.revision.manifest;
        entry["lastCommit"] = json!({
            "id": found.commit,
            "title": format!("{} at {}", manifest.name, manifest.version),
            "date": time(manifest),
        });
    }
    entry
}

/// The index of a file of a revision.
pub fn file_index(revision: &StoredRevision, path: &str) -> Option<usize> {
    revision.manifest.files.iter().position(|file| file.path == path)
}
