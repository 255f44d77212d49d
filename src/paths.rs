//! The paths below the base directory.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::fsutil::PARTIAL_SUFFIX;
use crate::model::{InfoHash, ModelName, ModelRef, PiecesRoot};

/// Network file systems by the number that statfs(2) gives (`linux/magic.h`).
const NETWORK_FILE_SYSTEMS: [(u64, &str); 9] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x5346_414f, "AFS"),
    (0x0102_1997, "9P"),
];

/// A directory that the node needs cannot be made or written to.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the directory {}: {source}", path.display())]
pub struct PathsError {
    /// The directory.
    pub path: PathBuf,
    /// The error of the system.
    pub source: io::Error,
}

/// The directories and files of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The node's own directory.
    pub base: PathBuf,
    /// Complete models.
    pub models: PathBuf,
}

impl Paths {
    /// The known manifests.
    pub fn registry(&self) -> PathBuf {
        self.base.join("registry")
    }

    /// The manifest of one revision: `registry/[datasets/]org/name/revision.json`.
    pub fn manifest(&self, model: &ModelRef) -> PathBuf {
        manifest_below(&self.registry(), model)
    }

    /// The newest known states of the publishers of a model.
    pub fn states(&self, model: &ModelRef) -> PathBuf {
        manifest_below(&self.registry().join(".states"), model)
    }

    /// The lock of the process that accepts a state of a model.
    pub fn states_lock(&self) -> PathBuf {
        self.registry().join(".states.lock")
    }

    /// Manifests of further publishers of models, a directory for each publisher.
    pub fn by_publisher(&self) -> PathBuf {
        self.registry().join(".by")
    }

    /// The directory of a complete model.
    pub fn model(&self, name: &ModelName) -> PathBuf {
        self.models.join(name.to_string())
    }

    /// The metainfo of a torrent, with piece layers.
    pub fn metainfo(&self, info_hash: &InfoHash) -> PathBuf {
        self.base.join("torrents").join(format!("{info_hash}.torrent"))
    }

    /// The piece layers known so far of a torrent that is not complete.
    pub fn resume(&self, info_hash: &InfoHash) -> PathBuf {
        self.base.join("resume").join(format!("{info_hash}.resume"))
    }

    /// The record of a revision's files outside the cache, with their stamps when they were verified.
    pub fn placement(&self, info_hash: &InfoHash) -> PathBuf {
        self.base.join("resume").join(format!("{info_hash}.json"))
    }

    /// The records of mirrors that left their large files out.
    pub fn laid_out_records(&self) -> PathBuf {
        self.base.join("resume").join("laid-out")
    }

    /// The record of such a mirror for one model.
    pub fn laid_out(&self, model: &ModelRef) -> PathBuf {
        self.laid_out_records().join(format!("{model}.json"))
    }

    /// The cache.
    pub fn cache(&self) -> PathBuf {
        self.base.join("cache")
    }

    /// Partly read files that come from a hub.
    pub fn hub_cache(&self) -> PathBuf {
        self.cache().join("hub")
    }

    /// The commits of models that are read from a hub.
    pub fn hub_models(&self) -> PathBuf {
        self.base.join("hub")
    }

    /// Other names of models, as the hub knows them.
    pub fn hub_aliases(&self) -> PathBuf {
        self.hub_models().join("aliases")
    }

    /// The hashes of files that `adopt` has read.
    pub fn adopted_hashes(&self) -> PathBuf {
        self.base.join("adopted.json")
    }

    /// The commit of one model that is read from a hub: `hub/[datasets/]org/name/revision.json`.
    pub fn hub_model(&self, model: &ModelRef) -> PathBuf {
        manifest_below(&self.hub_models(), model)
    }

    /// The results of the comparison of manifests with the hub.
    pub fn witnessed(&self) -> PathBuf {
        self.base.join("witness")
    }

    /// The hashes of the granules of contents.
    pub fn granules(&self) -> PathBuf {
        self.base.join("granules")
    }

    /// The progress of the background check of stored files.
    pub fn scrub(&self) -> PathBuf {
        self.base.join("scrub.json")
    }

    /// The sparse file that caches one content.
    pub fn cached(&self, root: &PiecesRoot) -> PathBuf {
        let name = root.to_string();
        self.cache().join(&name[..2]).join(name)
    }

    /// The publisher's key.
    pub fn publisher_key(&self) -> PathBuf {
        self.base.join("keys").join("publisher.key")
    }

    /// Former keys that the publisher has replaced, and the records of the replacements.
    pub fn successions(&self) -> PathBuf {
        self.base.join("keys").join("successions")
    }

    /// Trusted publishers and pinned names.
    pub fn trust(&self) -> PathBuf {
        self.base.join("trust.yaml")
    }

    /// The lock of the process that changes `trust.yaml` or replaces the publisher's key.
    pub fn trust_lock(&self) -> PathBuf {
        self.base.join("trust.lock")
    }

    /// The models that are not shared.
    pub fn sharing(&self) -> PathBuf {
        self.base.join("sharing.yaml")
    }

    /// The records of the catalog.
    pub fn catalog(&self) -> PathBuf {
        self.base.join("catalog")
    }

    /// The git repository that a model was mirrored from, bare.
    pub fn mirror_of(&self, model: &ModelRef) -> PathBuf {
        self.base.join("mirror").join(format!("{model}.git"))
    }

    /// The directory that receives the files of a repository before they become a model: next to the model's directory, so
    /// that they are moved and not copied.
    pub fn mirror_staging(&self, model: &ModelRef) -> PathBuf {
        let dest = self.models.join(model.to_string());
        let mut hidden = OsString::from(".");
        hidden.push(dest.file_name().unwrap_or_default());
        hidden.push(format!(".mirror{PARTIAL_SUFFIX}"));
        dest.with_file_name(hidden)
    }

    /// Logs of background mounts.
    pub fn logs(&self) -> PathBuf {
        self.base.join("log")
    }

    /// The lock that the running node holds; its first line is the node's process, its second line the host.
    pub fn lock(&self) -> PathBuf {
        self.base.join("node.lock")
    }

    /// The lock under which one command at a time mounts.
    pub fn mounting(&self) -> PathBuf {
        self.base.join("mount.lock")
    }

    /// The log of a daemon in the background.
    pub fn daemon_log(&self) -> PathBuf {
        self.logs().join("daemon.log")
    }

    /// The state of the DHT when the node ran last.
    pub fn dht_state(&self) -> PathBuf {
        self.base.join("dht.state")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.base.join("silmaril.sock")
    }

    /// The type of the file system of the base directory, or of the directory in which it will be made, if other hosts can
    /// use it at the same time: there a lock is valid on one host only, and memory maps of one host do not show the writes of
    /// another.
    pub fn network_file_system(&self) -> Option<String> {
        let there = self.base.ancestors().find_map(|dir| rustix::fs::statfs(dir).ok())?;
        let named =
            NETWORK_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == there.f_type as u64 & 0xffff_ffff)?;
        Some(named.1.to_owned())
    }

    /// Name of the manifest copy in a model directory.
    pub const MODEL_MANIFEST: &'static str = ".silmaril.json";

    /// Makes the base directory and the directories in it, mode 0700, and the models directory. Fails if one of them cannot be
    /// written to. If other users can read the base directory, its mode is changed. The directory of another program
    /// is refused.
    pub fn create(&self) -> Result<(), PathsError> {
        refuse_foreign(&self.base).map_err(|source| PathsError { path: self.base.clone(), source })?;
        let private = [
            self.base.clone(),
            self.registry(),
            self.base.join("torrents"),
            self.base.join("resume"),
            self.cache(),
            self.base.join("keys"),
            self.catalog(),
            self.logs(),
        ];
        for path in private {
            let failed = |source| PathsError { path: path.clone(), source };
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
            let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
            }
            writable(&path).map_err(failed)?;
        }
        let failed = |source| PathsError { path: self.models.clone(), source };
        fs::create_dir_all(&self.models).map_err(failed)?;
        writable(&self.models).map_err(failed)
    }

    /// Paths for a base directory with the default models directory.
    pub fn below(base: &Path) -> Self {
        Self { base: base.to_owned(), models: base.join("models") }
    }
}

/// The file of one revision below a directory: `[datasets/]org/name/revision.json`.
pub fn manifest_below(dir: &Path, model: &ModelRef) -> PathBuf {
    dir.join(model.name.to_string()).join(format!("{}.json", model.revision))
}

/// The names that a base directory without a registry may have.
const OWN_ENTRIES: [&str; 17] = [
    "cache",
    "catalog",
    "dht.state",
    "keys",
    "log",
    "mirror",
    "models",
    "mount.lock",
    "node.lock",
    "node.next",
    "resume",
    "scrub.json",
    "sharing.yaml",
    "silmaril.sock",
    "torrents",
    "trust.lock",
    "trust.yaml",
];

/// Refuses the directory of another program: its mode would be changed, and `init --cleanup` would delete its `cache`.
fn refuse_foreign(base: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if base.join("registry").is_dir() {
        return Ok(());
    }
    for entry in entries {
        let name = entry?.file_name();
        // The root of a file system may have it.
        if name != "lost+found" && !OWN_ENTRIES.iter().any(|own| name == *own) {
            return Err(io::Error::other(format!(
                "it holds {name:?} and is not silmaril's; choose a new or empty directory"
            )));
        }
    }
    Ok(())
}

/// Fails if files cannot be made for any reason: permissions, a read-only file system, quota.
fn writable(dir: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(".probe-").tempfile_in(dir)?.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_another_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("app.py"), "").unwrap();
        let error = Paths::below(dir.path()).create().unwrap_err().to_string();
        assert!(error.contains("app.py"), "{error}");
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no file was made in it");
    }

    #[test]
    fn directories_are_made_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("home/.silmaril");
        let paths = Paths::below(&base);
        paths.create().unwrap();
        fs::set_permissions(paths.registry(), fs::Permissions::from_mode(0o755)).unwrap();
        paths.create().unwrap();
        for path in [&paths.base, &paths.registry(), &paths.cache(), &paths.logs()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
        assert!(paths.models.is_dir());
        assert_eq!(fs::read_dir(paths.cache()).unwrap().count(), 0, "the probe is gone");
    }

    #[test]
    fn error_names_the_unusable_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Paths::below(&file.join("base")).create().unwrap_err().to_string();
        assert!(error.contains("file/base"), "{error}");
    }
}
