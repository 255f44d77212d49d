//! Lists the files that other programs have downloaded, in the layouts of those programs.
//!
//! A name of a directory or a file is only a hint: what a file is, is decided by its bytes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fsutil;
use crate::model::scan::is_left_out;
use crate::model::{Kind, ModelName, Sha256Digest};
use crate::store::Content;

/// The most files that one `adopt` looks at.
const MAX_FILES: usize = 200_000;
/// The deepest directory below a given one.
const MAX_DEPTH: usize = 12;
/// The longest manifest of Ollama that is read, in bytes.
const MAX_OLLAMA: u64 = 1 << 20;

/// Ends of the names of files that only a directory of a model has.
const OF_MODELS: [&str; 9] = ["safetensors", "gguf", "bin", "pt", "pth", "ckpt", "onnx", "parquet", "json"];

/// A file on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalFile {
    /// The real path.
    pub path: PathBuf,
    /// Length in bytes; never 0.
    pub size: u64,
    /// The SHA-256 that its name claims.
    pub claimed: Option<Sha256Digest>,
}

/// A directory with files that may belong to one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundDirectory {
    /// The name that the layout suggests.
    pub name: Option<ModelName>,
    /// The real path of the directory.
    pub dir: PathBuf,
    /// The files, by their paths in it.
    pub files: BTreeMap<String, LocalFile>,
}

impl FoundDirectory {
    /// Whether a content is complete, and read in one of the files.
    pub fn has(&self, content: &Content) -> bool {
        if !content.is_complete() || !content.is_placed() {
            return false;
        }
        let path = content.path();
        self.files.values().any(|file| file.path == path)
    }

    /// Bytes of the files.
    pub fn size(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }
}

/// What was found in the given directories.
#[derive(Debug, Default)]
pub(super) struct FoundDirectories {
    pub places: Vec<FoundDirectory>,
    /// Directories that were not searched, and why.
    pub skipped: Vec<(PathBuf, String)>,
    files: usize,
    /// The directories of this program.
    avoided: Vec<PathBuf>,
}

impl FoundDirectories {
    /// Searches directories. `avoided` are directories of this program, which are left out.
    pub fn find(dirs: &[PathBuf], avoided: Vec<PathBuf>) -> Self {
        let mut this = Self { avoided, ..Self::default() };
        for dir in dirs {
            match fs::canonicalize(dir) {
                Ok(real) if real.is_dir() => this.search(&real),
                Ok(real) => this.skipped.push((real, "it is not a directory".to_owned())),
                Err(error) => this.skipped.push((dir.clone(), error.to_string())),
            }
        }
        // The same directory may be given twice, or inside another one.
        this.places.sort_by(|a, b| a.dir.cmp(&b.dir).then_with(|| a.name.cmp(&b.name)));
        this.places.dedup();
        this
    }

    fn search(&mut self, root: &Path) {
        let has = |name: &str| root.join(name).is_dir();
        if has("blobs") && has("manifests") {
            self.search_ollama(root);
        } else if repository_name(root).is_some() {
            self.search_repository(root, fsutil::parent(root));
        } else if has("checkpoints") && has("vae") {
            // ComfyUI sorts files by their use, so that no directory has the name of a model.
            self.add(None, root, root);
        } else {
            self.search_tree(root, root, 0);
        }
    }

    /// A tree in which the directories of models have their names, such as those of `hf download --local-dir` and LM Studio.
    /// Repositories of a hub cache may be anywhere in it.
    fn search_tree(&mut self, root: &Path, dir: &Path, depth: usize) {
        if self.is_avoided(dir) {
            return;
        }
        let Some(entries) = self.entries(dir) else { return };
        let is_model = |(name, path): &(String, PathBuf)| {
            let end = name.rsplit_once('.').map_or("", |(_, end)| end);
            OF_MODELS.contains(&end) && path.is_file()
        };
        if entries.iter().any(is_model) {
            return self.add(name_of(dir), dir, root);
        }
        for (name, path) in entries {
            let is_real = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            if !is_real || depth >= MAX_DEPTH || is_left_out(&name, true) {
                continue;
            }
            match repository_name(&path) {
                Some(_) => self.search_repository(&path, root),
                None => self.search_tree(root, &path, depth + 1),
            }
        }
    }

    /// A repository of a hub cache: each snapshot has links to files in `blobs`, of the repository or of the whole cache.
    fn search_repository(&mut self, repository: &Path, cache: &Path) {
        let name = repository_name(repository);
        for (_, snapshot) in self.entries(&repository.join("snapshots")).unwrap_or_default() {
            self.add(name.clone(), &snapshot, cache);
        }
    }

    /// Ollama keeps layers as `blobs/sha256-…`, and a manifest for each model.
    fn search_ollama(&mut self, root: &Path) {
        let mut named = Vec::new();
        for host in ["hf.co", "huggingface.co"] {
            for (org, dir) in self.entries(&root.join("manifests").join(host)).unwrap_or_default() {
                for (name, tags) in self.entries(&dir).unwrap_or_default() {
                    let Ok(name) = ModelName::new(Kind::Model, &org, &name) else { continue };
                    for (_, manifest) in self.entries(&tags).unwrap_or_default() {
                        named.push((name.clone(), ollama_layers(&manifest)));
                    }
                }
            }
        }
        let mut all = FoundDirectory { name: None, dir: root.to_owned(), files: BTreeMap::new() };
        self.list(&root.join("blobs"), "blobs", root, 0, &mut all.files);
        for (name, layers) in named {
            let of_model = |file: &LocalFile| file.claimed.is_some_and(|claimed| layers.contains(&claimed));
            let files = all.files.iter().filter(|(_, file)| of_model(file));
            let files: BTreeMap<_, _> = files.map(|(path, file)| (path.clone(), file.clone())).collect();
            if !files.is_empty() {
                self.places.push(FoundDirectory { name: Some(name), dir: root.to_owned(), files });
            }
        }
        self.places.push(all);
    }

    /// Adds a directory with all files below it.
    fn add(&mut self, name: Option<ModelName>, dir: &Path, root: &Path) {
        let mut files = BTreeMap::new();
        self.list(dir, "", root, 0, &mut files);
        if !files.is_empty() {
            self.places.push(FoundDirectory { name, dir: dir.to_owned(), files });
        }
    }

    /// Lists the files below a directory. A link is followed only to a file below `root`.
    fn list(
        &mut self,
        dir: &Path,
        at: &str,
        root: &Path,
        depth: usize,
        files: &mut BTreeMap<String, LocalFile>,
    ) {
        if self.is_avoided(dir) {
            return;
        }
        for (name, path) in self.entries(dir).unwrap_or_default() {
            let relative = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if is_left_out(&name, metadata.is_dir()) {
                continue;
            }
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    self.list(&path, &relative, root, depth + 1, files);
                }
                continue;
            }
            let Some(real) = fs::canonicalize(&path).ok().filter(|real| real.starts_with(root)) else {
                continue;
            };
            let Ok(metadata) = fs::symlink_metadata(&real) else { continue };
            if metadata.is_file() && metadata.size() > 0 {
                let claimed = real.file_name().and_then(claimed_hash);
                files.insert(relative, LocalFile { path: real, size: metadata.size(), claimed });
            }
        }
    }

    /// The entries of a directory in order. None if it cannot be read, or too many files were listed.
    fn entries(&mut self, dir: &Path) -> Option<Vec<(String, PathBuf)>> {
        let listed = match fs::read_dir(dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.skipped.push((dir.to_owned(), error.to_string()));
                return None;
            }
        };
        let room = MAX_FILES.saturating_sub(self.files);
        let mut entries: Vec<_> = listed
            .take(room + 1)
            .filter_map(|entry| {
                Some((entry.as_ref().ok()?.file_name().into_string().ok()?, entry.ok()?.path()))
            })
            .collect();
        self.files += entries.len();
        if entries.len() > room {
            self.skipped.push((dir.to_owned(), format!("more than {MAX_FILES} files were found before")));
            return None;
        }
        entries.sort();
        Some(entries)
    }

    fn is_avoided(&self, dir: &Path) -> bool {
        self.avoided.iter().any(|avoided| dir.starts_with(avoided))
    }
}

/// The name of a repository of a hub cache: `models--org--name`, `datasets--org--name`.
fn repository_name(dir: &Path) -> Option<ModelName> {
    let name = dir.file_name()?.to_str()?;
    let (kind, rest) = match name.strip_prefix("models--") {
        Some(rest) => (Kind::Model, rest),
        None => (Kind::Dataset, name.strip_prefix("datasets--")?),
    };
    ModelName::of_hub(kind, &rest.replacen("--", "/", 1)).ok()
}

/// The name that the last two parts of a path form.
fn name_of(dir: &Path) -> Option<ModelName> {
    let part = |dir: &Path| dir.file_name().and_then(OsStr::to_str).map(str::to_owned);
    ModelName::new(Kind::Model, &part(dir.parent()?)?, &part(dir)?).ok()
}

/// The SHA-256 in the name of a blob: 64 hexadecimal digits, behind `sha256-` in Ollama.
fn claimed_hash(name: &OsStr) -> Option<Sha256Digest> {
    let name = name.to_str()?;
    name.strip_prefix("sha256-").unwrap_or(name).parse().ok()
}

/// The hashes of the layers of a model of Ollama.
fn ollama_layers(manifest: &Path) -> Vec<Sha256Digest> {
    #[derive(Deserialize)]
    struct Layer {
        digest: String,
    }
    #[derive(Deserialize)]
    struct OllamaManifest {
        layers: Vec<Layer>,
    }
    let Ok(bytes) = fsutil::read_capped(manifest, MAX_OLLAMA) else { return Vec::new() };
    let Ok(OllamaManifest { layers }) = serde_json::from_slice(&bytes) else { return Vec::new() };
    layers.iter().filter_map(|layer| layer.digest.strip_prefix("sha256:")?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a file, and the directories above it.
    fn make(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn found(dirs: &[&Path]) -> Vec<(String, Vec<String>)> {
        let dirs: Vec<PathBuf> = dirs.iter().map(|dir| (*dir).to_owned()).collect();
        let places = FoundDirectories::find(&dirs, Vec::new()).places.into_iter();
        let name = |place: &FoundDirectory| place.name.as_ref().map_or("-".to_owned(), ToString::to_string);
        places.map(|place| (name(&place), place.files.into_keys().collect())).collect()
    }

    fn expected(list: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        list.iter().map(|(name, paths)| ((*name).to_owned(), owned(paths))).collect()
    }

    #[test]
    fn snapshots_of_a_hub_cache_are_found_through_their_links() {
        let dir = tempfile::tempdir().unwrap();
        let hub = dir.path().join("hub");
        let repository = hub.join("models--acme--m");
        make(&repository.join("blobs/aa"));
        make(&hub.join("blobs/bb"));
        make(&dir.path().join("token"));
        let snapshot = repository.join("snapshots/0123");
        fs::create_dir_all(snapshot.join("sub")).unwrap();
        for (link, target) in
            [("w.bin", "../../blobs/aa"), ("sub/c.json", "../../../../blobs/bb"), ("t", "../../../../token")]
        {
            std::os::unix::fs::symlink(target, snapshot.join(link)).unwrap();
        }
        make(&hub.join("models--gpt2/snapshots/1/config.json"));
        let all = expected(&[("acme/m", &["sub/c.json", "w.bin"]), ("_/gpt2", &["config.json"])]);
        assert_eq!(found(&[&hub]), all, "the link out of the cache must not be followed");
        assert_eq!(found(&[&repository]), expected(&[("acme/m", &["sub/c.json", "w.bin"])]));
    }

    #[test]
    fn directories_with_model_files_have_the_name_of_their_path() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "acme/m/m.gguf",
            "acme/m/sub/x.txt",
            "acme/m/.cache/part",
            "acme/n/model_index.json",
            "acme/empty/x.txt",
        ] {
            make(&dir.path().join(path));
        }
        let both = expected(&[("acme/m", &["m.gguf", "sub/x.txt"]), ("acme/n", &["model_index.json"])]);
        assert_eq!(found(&[dir.path()]), both);
        assert_eq!(found(&[dir.path(), &dir.path().join("acme/n")]), both, "a directory was listed twice");
    }

    #[test]
    fn files_of_comfyui_have_no_model() {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("checkpoints/a.safetensors"));
        make(&dir.path().join("vae/b.safetensors"));
        assert_eq!(
            found(&[dir.path()]),
            expected(&[("-", &["checkpoints/a.safetensors", "vae/b.safetensors"])])
        );
    }

    #[test]
    fn layers_of_ollama_belong_to_the_models_that_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let blob = format!("blobs/sha256-{}", "ab".repeat(32));
        make(&dir.path().join(&blob));
        make(&dir.path().join(format!("blobs/sha256-{}", "cd".repeat(32))));
        let manifest = dir.path().join("manifests/hf.co/acme/m/Q4");
        make(&manifest);
        let layer = format!(r#"{{"layers":[{{"digest":"sha256:{}"}}]}}"#, "ab".repeat(32));
        fs::write(&manifest, layer).unwrap();
        let found = found(&[dir.path()]);
        assert_eq!((found[0].0.as_str(), found[0].1.len()), ("-", 2));
        assert_eq!(found[1], ("acme/m".to_owned(), vec![blob]));
    }
}
