//! The paths above the revisions, and what an unknown name in such a directory could be.

use std::fmt;

use super::never_resolve::NeverResolve;
use crate::model::commit::is_commit;
use crate::model::keys::FINGERPRINT_ALPHABET;
use crate::model::{Kind, ModelName, ModelRef, PublisherKey, Revision};

/// The directory in the root that has a directory for each publisher. It is found by its name but not listed, so that
/// programs that walk the tree see each model once.
pub const BY: &str = ".by";

/// How a mount arranges the models.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum MountLayout {
    /// `org/name@revision/…`, as people write names.
    #[default]
    Plain,
    /// `models--org--name/snapshots/COMMIT/…` and `refs/`, the cache directory of the hub's clients.
    Hf,
}

/// A directory above the revisions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopPath {
    /// The root of the mount.
    Root,
    /// The root of a mount in the layout [`MountLayout::Hf`].
    CacheRoot,
    /// `/models--org--name`, or `/datasets--org--name`.
    Repo(ModelName),
    /// A directory of a repository.
    RepoDir(ModelName, RepoDir),
    /// `/datasets`.
    Datasets,
    /// `/org`, or `/datasets/org`.
    Org(Kind, String),
    /// `/.by`.
    By,
    /// A directory of one publisher, by fingerprint: `/.by/FINGERPRINT`, which has the same layout as the root.
    Of(String, Box<Self>),
    /// A link in `/.by`: another name for a publisher, and the fingerprint.
    Alias(String, String),
}

/// The directories of a repository in the layout [`MountLayout::Hf`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoDir {
    /// A file for each revision, with its commit.
    Refs,
    /// A directory for each commit.
    Snapshots,
    /// Empty: clients list it, and files are not links to it.
    Blobs,
}

impl RepoDir {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Blobs, Self::Refs, Self::Snapshots];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refs => "refs",
            Self::Snapshots => "snapshots",
            Self::Blobs => "blobs",
        }
    }
}

/// The name of a model's directory in the layout [`MountLayout::Hf`].
pub fn repo_folder(name: &ModelName) -> String {
    let kind = if name.kind() == Kind::Dataset { "datasets" } else { "models" };
    format!("{kind}--{}--{}", name.org(), name.name())
}

/// The model of a directory that [`repo_folder`] names.
fn repo_of(folder: &str) -> Option<ModelName> {
    let (kind, rest) = folder.split_once("--")?;
    let kind = match kind {
        "models" => Kind::Model,
        "datasets" => Kind::Dataset,
        _ => return None,
    };
    // A name of the hub has no `--`.
    let (org, name) = rest.split_once("--").filter(|(_, name)| !name.contains("--"))?;
    ModelName::new(kind, org, name).ok()
}

/// A model that a program looks up by a path of the mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestedModel {
    /// Its name and revision.
    pub model: ModelRef,
    /// The fingerprint of its publisher, if the path contains one.
    pub publisher: Option<String>,
}

impl RequestedModel {
    /// The path of its directory in a mount.
    pub fn path(&self) -> String {
        match &self.publisher {
            Some(publisher) => format!("{BY}/{publisher}/{}", self.model),
            None => self.model.to_string(),
        }
    }
}

impl fmt::Display for RequestedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// The entry that an unknown name could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PossibleEntry {
    /// A directory above the revisions.
    Dir(TopPath),
    /// A model.
    Model(RequestedModel),
    /// A publisher, by another text than the fingerprint as it is printed.
    Publisher(String),
}

impl TopPath {
    /// The path in the mount; empty for the root.
    pub fn path(&self) -> String {
        match self {
            Self::Root | Self::CacheRoot => String::new(),
            Self::Repo(name) => repo_folder(name),
            Self::RepoDir(name, dir) => format!("{}/{}", repo_folder(name), dir.name()),
            Self::Datasets => "datasets".to_owned(),
            Self::Org(Kind::Model, org) => org.clone(),
            Self::Org(Kind::Dataset, org) => format!("datasets/{org}"),
            Self::By => BY.to_owned(),
            Self::Alias(text, _) => format!("{BY}/{text}"),
            Self::Of(publisher, place) => match &**place {
                Self::Root => format!("{BY}/{publisher}"),
                place => format!("{BY}/{publisher}/{}", place.path()),
            },
        }
    }

    /// The directory above it; the root is its own parent.
    pub fn parent(&self) -> Self {
        match self {
            Self::Root | Self::Datasets | Self::Org(Kind::Model, _) | Self::By => Self::Root,
            Self::CacheRoot | Self::Repo(_) => Self::CacheRoot,
            Self::RepoDir(name, _) => Self::Repo(name.clone()),
            Self::Org(Kind::Dataset, _) => Self::Datasets,
            Self::Alias(..) => Self::By,
            Self::Of(_, place) if **place == Self::Root => Self::By,
            Self::Of(publisher, place) => Self::Of(publisher.clone(), Box::new(place.parent())),
        }
    }

    /// What a name in this directory could be; none if it cannot be a name or matches `never`.
    pub fn guess(&self, name: &str, never: &NeverResolve) -> Option<PossibleEntry> {
        let org = |kind| {
            // The name of an organisation is checked as a part of a model's name.
            ModelName::new(kind, name, "model").ok().filter(|_| !never.matches_org(name))?;
            Some(PossibleEntry::Dir(Self::Org(kind, name.to_owned())))
        };
        match self {
            Self::Root if name == BY => Some(PossibleEntry::Dir(Self::By)),
            Self::Root if name == "datasets" => Some(PossibleEntry::Dir(Self::Datasets)),
            Self::Root => org(Kind::Model),
            Self::Datasets => org(Kind::Dataset),
            Self::Org(kind, org) => {
                let (name, revision) = name.split_once('@').map_or((name, None), |(n, r)| (n, Some(r)));
                let name =
                    ModelName::new(*kind, org, name).ok().filter(|_| !never.matches_model(org, name))?;
                let revision: Option<Revision> = revision.map(str::parse).transpose().ok()?;
                let model = ModelRef { name, revision: revision.unwrap_or_default() };
                Some(PossibleEntry::Model(RequestedModel { model, publisher: None }))
            }
            Self::CacheRoot => {
                let model = repo_of(name)
                    .filter(|m| !never.matches_org(m.org()) && !never.matches_model(m.org(), m.name()))?;
                Some(PossibleEntry::Dir(Self::Repo(model)))
            }
            Self::Repo(model) => {
                let dir = RepoDir::ALL.into_iter().find(|dir| dir.name() == name)?;
                Some(PossibleEntry::Dir(Self::RepoDir(model.clone(), dir)))
            }
            // A client reads the commit of a branch, or asks for a commit that it knows.
            Self::RepoDir(model, dir) => {
                let may_be = match dir {
                    RepoDir::Refs => true,
                    RepoDir::Snapshots => is_commit(name),
                    RepoDir::Blobs => false,
                };
                let revision = name.parse().ok().filter(|_| may_be)?;
                let model = ModelRef { name: model.clone(), revision };
                Some(PossibleEntry::Model(RequestedModel { model, publisher: None }))
            }
            Self::By if is_fingerprint(name) => {
                Some(PossibleEntry::Dir(Self::Of(name.to_owned(), Box::new(Self::Root))))
            }
            Self::By => Some(PossibleEntry::Publisher(name.to_owned())),
            Self::Alias(..) => None,
            // The directory of a publisher has no `.by`.
            Self::Of(_, place) if **place == Self::Root && name == BY => None,
            Self::Of(publisher, place) => Some(match place.guess(name, never)? {
                PossibleEntry::Dir(place) => PossibleEntry::Dir(Self::Of(publisher.clone(), Box::new(place))),
                PossibleEntry::Model(RequestedModel { model, .. }) => {
                    PossibleEntry::Model(RequestedModel { model, publisher: Some(publisher.clone()) })
                }
                PossibleEntry::Publisher(name) => PossibleEntry::Publisher(name),
            }),
        }
    }
}

/// Whether a text is a fingerprint as it is printed: four groups of four digits.
fn is_fingerprint(text: &str) -> bool {
    let digit = |b: u8| FINGERPRINT_ALPHABET.contains(&b);
    let groups: Vec<&str> = text.split('-').collect();
    groups.len() == 4 && groups.iter().all(|group| group.len() == 4 && group.bytes().all(digit))
}

/// The fingerprint that a text means without knowledge of publishers: the text is a whole key, or a whole fingerprint in
/// another case or without dashes.
pub fn fingerprint_of(text: &str) -> Option<String> {
    if let Ok(key) = text.parse::<PublisherKey>() {
        return Some(key.fingerprint());
    }
    let digits = text.replace('-', "").to_ascii_lowercase();
    if digits.len() != 16 || !digits.is_ascii() {
        return None;
    }
    let groups: Vec<&str> = (0..4).map(|group| &digits[4 * group..4 * group + 4]).collect();
    Some(groups.join("-")).filter(|text| is_fingerprint(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> NeverResolve {
        let patterns = ["desktop.ini", "autorun.inf", "head", "thumbs.db", "lib", "*.so.*", ".*"];
        NeverResolve::new(&patterns.map(|pattern| pattern.parse().unwrap())).unwrap()
    }

    fn org(kind: Kind, org: &str) -> TopPath {
        TopPath::Org(kind, org.to_owned())
    }

    #[test]
    fn unknown_names_are_directories_or_models() {
        let dir = |place| Some(PossibleEntry::Dir(place));
        assert_eq!(TopPath::Root.guess("datasets", &never()), dir(TopPath::Datasets));
        assert_eq!(TopPath::Root.guess("acme", &never()), dir(org(Kind::Model, "acme")));
        assert_eq!(TopPath::Datasets.guess("acme", &never()), dir(org(Kind::Dataset, "acme")));
        let model = |text: &str| {
            Some(PossibleEntry::Model(RequestedModel { model: text.parse().unwrap(), publisher: None }))
        };
        let acme = org(Kind::Model, "acme");
        assert_eq!(acme.guess("m", &never()), model("acme/m"));
        assert_eq!(acme.guess("m@main", &never()), model("acme/m"));
        assert_eq!(acme.guess("m@v1.0", &never()), model("acme/m@v1.0"));
        assert_eq!(org(Kind::Dataset, "acme").guess("d@x", &never()), model("datasets/acme/d@x"));
    }

    #[test]
    fn cache_layout_names_are_guessed() {
        let root = TopPath::CacheRoot;
        let model: ModelName = "acme/m".parse().unwrap();
        let repo = TopPath::Repo(model.clone());
        assert_eq!(root.guess("models--acme--m", &never()), Some(PossibleEntry::Dir(repo.clone())));
        let data = TopPath::Repo("datasets/acme/d".parse().unwrap());
        assert_eq!(root.guess("datasets--acme--d", &never()), Some(PossibleEntry::Dir(data.clone())));
        for name in [
            "acme",
            "models--acme",
            "models--lib--m",
            "spaces--acme--m",
            "models--a--b--c",
            ".locks",
            "CACHEDIR.TAG",
        ] {
            assert_eq!(root.guess(name, &never()), None, "{name}");
        }
        let refs = TopPath::RepoDir(model.clone(), RepoDir::Refs);
        assert_eq!(repo.guess("refs", &never()), Some(PossibleEntry::Dir(refs.clone())));
        assert_eq!(repo.guess("trees", &never()), None);
        let requested = |text: &str| {
            Some(PossibleEntry::Model(RequestedModel { model: text.parse().unwrap(), publisher: None }))
        };
        assert_eq!(refs.guess("main", &never()), requested("acme/m"));
        let snapshots = TopPath::RepoDir(model, RepoDir::Snapshots);
        let commit = "ab".repeat(20);
        assert_eq!(snapshots.guess(&commit, &never()), requested(&format!("acme/m@{commit}")));
        assert_eq!(snapshots.guess("main", &never()), None);
        assert_eq!((refs.path().as_str(), refs.parent()), ("models--acme--m/refs", repo));
        assert_eq!((data.path().as_str(), data.parent()), ("datasets--acme--d", TopPath::CacheRoot));
    }

    #[test]
    fn impossible_and_excluded_names_are_refused() {
        let acme = org(Kind::Model, "acme");
        let long = "x".repeat(97);
        for name in [
            ".git",
            ".hidden",
            "a b",
            "a\u{202e}b",
            "",
            &long,
            "Thumbs.db",
            "desktop.ini",
            "AUTORUN.INF",
            "HEAD",
            "lib",
            "libcudart.so.12",
        ] {
            for place in [&TopPath::Root, &TopPath::Datasets, &acme] {
                assert_eq!(place.guess(name, &never()), None, "{name} in {place:?}");
            }
        }
        for name in ["lib@v1", "m@", "@v1", "m@a@b", "m@.x", "m@a/b"] {
            assert_eq!(acme.guess(name, &never()), None, "{name}");
        }
        assert_eq!(TopPath::Root.guess("Datasets", &never()), None);
        assert_eq!(TopPath::Datasets.guess("datasets", &never()), None);
    }

    #[test]
    fn a_publisher_has_the_layout_of_the_root() {
        let print = "r5fk-b70b-psbb-5vew";
        let of = |place| TopPath::Of(print.to_owned(), Box::new(place));
        assert_eq!(TopPath::Root.guess(".by", &never()), Some(PossibleEntry::Dir(TopPath::By)));
        assert_eq!(TopPath::By.guess(print, &never()), Some(PossibleEntry::Dir(of(TopPath::Root))));
        assert_eq!(
            of(TopPath::Root).guess("datasets", &never()),
            Some(PossibleEntry::Dir(of(TopPath::Datasets)))
        );
        assert_eq!(
            of(TopPath::Root).guess("acme", &never()),
            Some(PossibleEntry::Dir(of(org(Kind::Model, "acme"))))
        );
        let requested =
            RequestedModel { model: "acme/m@v1".parse().unwrap(), publisher: Some(print.to_owned()) };
        assert_eq!(
            of(org(Kind::Model, "acme")).guess("m@v1", &never()),
            Some(PossibleEntry::Model(requested.clone()))
        );
        assert_eq!(requested.path(), format!(".by/{print}/acme/m@v1"));
        assert_eq!(of(TopPath::Root).guess(".by", &never()), None);
        let data = of(org(Kind::Dataset, "acme"));
        assert_eq!(
            (data.path(), data.parent()),
            (format!(".by/{print}/datasets/acme"), of(TopPath::Datasets))
        );
        assert_eq!(
            (of(TopPath::Root).path(), of(TopPath::Root).parent()),
            (format!(".by/{print}"), TopPath::By)
        );
        assert_eq!(TopPath::By.parent(), TopPath::Root);
    }

    #[test]
    fn whole_keys_and_fingerprints_are_read_in_any_form() {
        let key = PublisherKey([7; 32]);
        let print = key.fingerprint();
        for text in [key.to_string(), print.to_uppercase(), print.replace('-', ""), print.clone()] {
            assert_eq!(fingerprint_of(&text), Some(print.clone()), "{text}");
        }
        for text in ["", "r5fk", "r5fk-b70b-psbb-5vei", "bob", "éééééééé"] {
            assert_eq!(fingerprint_of(text), None, "{text}");
        }
    }

    #[test]
    fn paths_and_parents() {
        let data = org(Kind::Dataset, "acme");
        assert_eq!((data.path().as_str(), data.parent()), ("datasets/acme", TopPath::Datasets));
        assert_eq!(org(Kind::Model, "acme").parent(), TopPath::Root);
        assert_eq!(TopPath::Datasets.parent(), TopPath::Root);
    }
}
