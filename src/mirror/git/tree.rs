//! Lists the files of a commit.

use git2::{ObjectType, Oid, Repository};

use super::fetch::{error_text, too_large};
use crate::mirror::error::GitFault;
use crate::mirror::source::{Listing, RemoteFile};
use crate::mirror::{GitOid, Identity, MirrorError};
use crate::model::Pointer;
use crate::model::files::MAX_FILES;
use crate::model::path::MAX_DEPTH;
use crate::model::pointer::POINTER_LIMIT;
use crate::model::text::{clean, format_size};

/// Largest file outside LFS, in bytes. libgit2 reads a whole blob into memory.
const MAX_BLOB: u64 = 256 << 20;
/// Longest `.lfsconfig` that is read, in bytes.
const MAX_LFSCONFIG: u64 = 64 << 10;

/// The files of a commit.
pub(super) struct CommitFiles {
    pub files: Vec<RemoteFile>,
    pub warnings: Vec<String>,
    /// `lfs.url` of `.lfsconfig`.
    pub lfs_url: Option<String>,
}

/// Lists the files of a commit. `name` is the address of the repository for errors.
pub(super) fn list(repo: &Repository, commit: Oid, name: &str) -> Result<CommitFiles, MirrorError> {
    let walk = Walk { repo, name };
    let root = repo.find_commit(commit).map_err(|e| walk.failed(&e))?.tree_id();
    let odb = repo.odb().map_err(|e| walk.failed(&e))?;
    let mut listing = Listing::new(name.to_owned());
    let mut lfs_url = None;
    let mut todo = vec![(String::new(), root)];
    let mut directories = 0;
    while let Some((prefix, id)) = todo.pop() {
        directories += 1;
        if directories > MAX_FILES {
            return Err(walk.refused(format!("it has more than {MAX_FILES} directories")));
        }
        let tree = repo.find_tree(id).map_err(|e| walk.failed(&e))?;
        for entry in &tree {
            let part = std::str::from_utf8(entry.name_bytes())
                .map_err(|_| walk.refused(format!("a name in {:?} is not UTF-8", clean(&prefix))))?;
            let path = if prefix.is_empty() { part.to_owned() } else { format!("{prefix}/{part}") };
            match entry.filemode() {
                0o040000 => {
                    if path.split('/').count() > MAX_DEPTH {
                        return Err(walk.refused(format!("it has directories more than {MAX_DEPTH} deep")));
                    }
                    todo.push((path, entry.id()));
                }
                0o160000 => listing.submodule(&path)?,
                mode => {
                    let (size, kind) = odb.read_header(entry.id()).map_err(|e| walk.failed(&e))?;
                    if kind != ObjectType::Blob {
                        return Err(walk.refused(format!("{:?} is not a file", clean(&path))));
                    }
                    let is_link = mode == 0o120000;
                    let mut file = RemoteFile {
                        path,
                        size: size as u64,
                        identity: Identity::Git(entry.id().into()),
                        blob: GitOid::from(entry.id()),
                        executable: mode & 0o111 != 0 && !is_link,
                    };
                    let read = || odb.read(entry.id()).map_err(|e| walk.failed(&e));
                    if !is_link
                        && (1..POINTER_LIMIT).contains(&size)
                        && let Some(pointer) = Pointer::parse(read()?.data())
                    {
                        (file.size, file.identity) = (pointer.size, Identity::Lfs(pointer.sha256));
                    } else if file.size > MAX_BLOB {
                        let (path, size) = (clean(&file.path), format_size(file.size));
                        return Err(walk.refused(format!(
                            "{path:?} has {size} outside LFS, which is more than the limit"
                        )));
                    }
                    if file.path == ".lfsconfig" && file.size <= MAX_LFSCONFIG && !is_link {
                        lfs_url = lfs_url_of(&String::from_utf8_lossy(read()?.data()));
                    }
                    if is_link { listing.add_link(file)? } else { listing.add(file)? }
                }
            }
        }
    }
    let (files, warnings) = listing.finish()?;
    Ok(CommitFiles { files, warnings, lfs_url })
}

struct Walk<'a> {
    repo: &'a Repository,
    name: &'a str,
}

impl Walk<'_> {
    fn failed(&self, error: &git2::Error) -> MirrorError {
        if let Some(refused) = too_large(error, self.name) {
            return refused;
        }
        let reason = if self.repo.is_shallow() && error.code() == git2::ErrorCode::NotFound {
            format!("an object is missing: {}", error_text(error))
        } else {
            error_text(error)
        };
        MirrorError::Git { repository: self.name.to_owned(), reason, fault: GitFault::Copy }
    }

    fn refused(&self, reason: String) -> MirrorError {
        MirrorError::Refused { repository: self.name.to_owned(), reason }
    }
}

/// `lfs.url` in the text of a git configuration. libgit2 is not used, because it would follow includes to local files.
fn lfs_url_of(text: &str) -> Option<String> {
    let mut inside = false;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.split(']').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("lfs"));
        } else if inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim().eq_ignore_ascii_case("url")
        {
            let value = value.trim();
            let quoted =
                value.strip_prefix('"').and_then(|rest| rest.split_once('"')).map(|(value, _)| value);
            let plain = || value.split([' ', '\t', ';', '#']).next().unwrap_or_default();
            found = Some(quoted.unwrap_or_else(plain).to_owned());
        }
    }
    found.filter(|url| !url.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lfs_address_is_found_in_the_configuration() {
        for (text, url) in [
            ("[lfs]\n\turl = https://lfs.example/x ; a note\n", Some("https://lfs.example/x")),
            (
                "[core]\nurl=a\n[LFS]\nURL = \"https://b.example/\"\n[lfs \"x\"]\nurl=c",
                Some("https://b.example/"),
            ),
            ("[lfs]\nfetchexclude = *\n", None),
            ("[include]\npath = /etc/passwd\nurl = x", None),
            ("url = https://x", None),
        ] {
            assert_eq!(lfs_url_of(text).as_deref(), url, "{text}");
        }
    }
}
