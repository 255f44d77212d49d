//! The directories above the revisions, and what a name that is not known in one of them could stand for.

use crate::model::{Kind, ModelName, ModelRef, Revision};

/// What programs look for by themselves in whatever directory they are in, or above it. Nobody calls a model so, and
/// the network should not be asked each time. Compared without regard to case.
const NOISE: [&str; 13] = [
    // File managers.
    "autorun.inf",
    "desktop.ini",
    "ehthumbs.db",
    "thumbs.db",
    // Backup programs.
    "cachedir.tag",
    // git, which tries each directory as a bare repository.
    "head",
    // Build tools and test runners, which walk up to the root of their project.
    "cargo.toml",
    "node_modules",
    "package.json",
    "pyproject.toml",
    "pytest.ini",
    "setup.cfg",
    "tox.ini",
];

/// A directory above the revisions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The root of the mount.
    Root,
    /// `/datasets`.
    Datasets,
    /// `/org`, or `/datasets/org`.
    Org(Kind, String),
}

/// What an unknown name could stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guess {
    /// A directory above the revisions.
    Dir(Place),
    /// A model.
    Model(ModelRef),
}

impl Place {
    /// Its path in the mount; empty for the root.
    pub fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Datasets => "datasets".to_owned(),
            Self::Org(Kind::Model, org) => org.clone(),
            Self::Org(Kind::Dataset, org) => format!("datasets/{org}"),
        }
    }

    /// The directory above it; the root is its own.
    pub fn parent(&self) -> Self {
        match self {
            Self::Root | Self::Datasets | Self::Org(Kind::Model, _) => Self::Root,
            Self::Org(Kind::Dataset, _) => Self::Datasets,
        }
    }

    /// What a name in it could stand for; none for what cannot be a name, and for noise.
    pub fn guess(&self, name: &str) -> Option<Guess> {
        if NOISE.iter().any(|noise| noise.eq_ignore_ascii_case(name)) {
            return None;
        }
        let org = |kind| {
            // Its models decide whether an organisation can be called so.
            ModelName::new(kind, name, "model").ok()?;
            Some(Guess::Dir(Self::Org(kind, name.to_owned())))
        };
        match self {
            Self::Root if name == "datasets" => Some(Guess::Dir(Self::Datasets)),
            Self::Root => org(Kind::Model),
            Self::Datasets => org(Kind::Dataset),
            Self::Org(kind, org) => {
                let (name, revision) = name.split_once('@').map_or((name, None), |(n, r)| (n, Some(r)));
                let name = ModelName::new(*kind, org, name).ok()?;
                let revision: Option<Revision> = revision.map(str::parse).transpose().ok()?;
                Some(Guess::Model(ModelRef { name, revision: revision.unwrap_or_default() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(kind: Kind, org: &str) -> Place {
        Place::Org(kind, org.to_owned())
    }

    #[test]
    fn names_stand_for_what_the_layout_says() {
        let dir = |place| Some(Guess::Dir(place));
        assert_eq!(Place::Root.guess("datasets"), dir(Place::Datasets));
        assert_eq!(Place::Root.guess("acme"), dir(org(Kind::Model, "acme")));
        assert_eq!(Place::Datasets.guess("acme"), dir(org(Kind::Dataset, "acme")));
        let model = |text: &str| Some(Guess::Model(text.parse().unwrap()));
        let acme = org(Kind::Model, "acme");
        assert_eq!(acme.guess("m"), model("acme/m"));
        assert_eq!(acme.guess("m@main"), model("acme/m"));
        assert_eq!(acme.guess("m@v1.0"), model("acme/m@v1.0"));
        assert_eq!(org(Kind::Dataset, "acme").guess("d@x"), model("datasets/acme/d@x"));
    }

    #[test]
    fn what_cannot_be_a_name_and_noise_stand_for_nothing() {
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
        ] {
            for place in [&Place::Root, &Place::Datasets, &acme] {
                assert_eq!(place.guess(name), None, "{name} in {place:?}");
            }
        }
        for name in ["m@", "@v1", "m@a@b", "m@.x", "m@a/b"] {
            assert_eq!(acme.guess(name), None, "{name}");
        }
        assert_eq!(Place::Root.guess("Datasets"), None);
        assert_eq!(Place::Datasets.guess("datasets"), None);
    }

    #[test]
    fn paths_and_parents() {
        let data = org(Kind::Dataset, "acme");
        assert_eq!((data.path().as_str(), data.parent()), ("datasets/acme", Place::Datasets));
        assert_eq!(org(Kind::Model, "acme").parent(), Place::Root);
        assert_eq!(Place::Datasets.parent(), Place::Root);
    }
}
