//! The directories above the revisions, and what a name that is not known in one of them could stand for.

use std::fmt;

use super::never::NeverResolve;
use crate::keys::FINGERPRINT_ALPHABET;
use crate::model::{Kind, ModelName, ModelRef, PublisherKey, Revision};

/// The directory in the root that holds a directory for each publisher. It is found by its name and not listed, so that
/// programs that walk the tree see each model once.
pub const BY: &str = ".by";

/// A directory above the revisions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The root of the mount.
    Root,
    /// `/datasets`.
    Datasets,
    /// `/org`, or `/datasets/org`.
    Org(Kind, String),
    /// `/.by`.
    By,
    /// A directory of one publisher, by fingerprint: `/.by/FINGERPRINT`, and below it what the root has.
    Of(String, Box<Self>),
    /// A link in `/.by`: another way to name a publisher, and their fingerprint.
    Alias(String, String),
}

/// The model that a path of the mount means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sought {
    /// Which model.
    pub model: ModelRef,
    /// The fingerprint of its publisher, where the path names one.
    pub publisher: Option<String>,
}

impl Sought {
    /// The path of its directory in a mount.
    pub fn path(&self) -> String {
        match &self.publisher {
            Some(publisher) => format!("{BY}/{publisher}/{}", self.model),
            None => self.model.to_string(),
        }
    }
}

impl fmt::Display for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// What an unknown name could stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guess {
    /// A directory above the revisions.
    Dir(Place),
    /// A model.
    Model(Sought),
    /// A publisher, by something else than the fingerprint as it is printed.
    Publisher(String),
}

impl Place {
    /// Its path in the mount; empty for the root.
    pub fn path(&self) -> String {
        match self {
            Self::Root => String::new(),
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

    /// The directory above it; the root is its own.
    pub fn parent(&self) -> Self {
        match self {
            Self::Root | Self::Datasets | Self::Org(Kind::Model, _) | Self::By => Self::Root,
            Self::Org(Kind::Dataset, _) => Self::Datasets,
            Self::Alias(..) => Self::By,
            Self::Of(_, place) if **place == Self::Root => Self::By,
            Self::Of(publisher, place) => Self::Of(publisher.clone(), Box::new(place.parent())),
        }
    }

    /// What a name in it could stand for; none for what cannot be a name, or matches `never`.
    pub fn guess(&self, name: &str, never: &NeverResolve) -> Option<Guess> {
        let org = |kind| {
            // Its models decide whether an organisation can be called so.
            ModelName::new(kind, name, "model").ok().filter(|_| !never.matches(name))?;
            Some(Guess::Dir(Self::Org(kind, name.to_owned())))
        };
        match self {
            Self::Root if name == BY => Some(Guess::Dir(Self::By)),
            Self::Root if name == "datasets" => Some(Guess::Dir(Self::Datasets)),
            Self::Root => org(Kind::Model),
            Self::Datasets => org(Kind::Dataset),
            Self::Org(kind, org) => {
                let (name, revision) = name.split_once('@').map_or((name, None), |(n, r)| (n, Some(r)));
                let name = ModelName::new(*kind, org, name).ok().filter(|_| !never.matches(name))?;
                let revision: Option<Revision> = revision.map(str::parse).transpose().ok()?;
                let model = ModelRef { name, revision: revision.unwrap_or_default() };
                Some(Guess::Model(Sought { model, publisher: None }))
            }
            Self::By if is_fingerprint(name) => {
                Some(Guess::Dir(Self::Of(name.to_owned(), Box::new(Self::Root))))
            }
            Self::By => Some(Guess::Publisher(name.to_owned())),
            Self::Alias(..) => None,
            // There are no publishers within one.
            Self::Of(_, place) if **place == Self::Root && name == BY => None,
            Self::Of(publisher, place) => Some(match place.guess(name, never)? {
                Guess::Dir(place) => Guess::Dir(Self::Of(publisher.clone(), Box::new(place))),
                Guess::Model(Sought { model, .. }) => {
                    Guess::Model(Sought { model, publisher: Some(publisher.clone()) })
                }
                Guess::Publisher(name) => Guess::Publisher(name),
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

/// The fingerprint that a text means without a look at known publishers: of a whole key, or of a whole fingerprint with
/// other case or without dashes.
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

    fn org(kind: Kind, org: &str) -> Place {
        Place::Org(kind, org.to_owned())
    }

    #[test]
    fn names_stand_for_what_the_layout_says() {
        let dir = |place| Some(Guess::Dir(place));
        assert_eq!(Place::Root.guess("datasets", &never()), dir(Place::Datasets));
        assert_eq!(Place::Root.guess("acme", &never()), dir(org(Kind::Model, "acme")));
        assert_eq!(Place::Datasets.guess("acme", &never()), dir(org(Kind::Dataset, "acme")));
        let model = |text: &str| Some(Guess::Model(Sought { model: text.parse().unwrap(), publisher: None }));
        let acme = org(Kind::Model, "acme");
        assert_eq!(acme.guess("m", &never()), model("acme/m"));
        assert_eq!(acme.guess("m@main", &never()), model("acme/m"));
        assert_eq!(acme.guess("m@v1.0", &never()), model("acme/m@v1.0"));
        assert_eq!(org(Kind::Dataset, "acme").guess("d@x", &never()), model("datasets/acme/d@x"));
    }

    #[test]
    fn impossible_and_excluded_names_stand_for_nothing() {
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
            for place in [&Place::Root, &Place::Datasets, &acme] {
                assert_eq!(place.guess(name, &never()), None, "{name} in {place:?}");
            }
        }
        for name in ["lib@v1", "m@", "@v1", "m@a@b", "m@.x", "m@a/b"] {
            assert_eq!(acme.guess(name, &never()), None, "{name}");
        }
        assert_eq!(Place::Root.guess("Datasets", &never()), None);
        assert_eq!(Place::Datasets.guess("datasets", &never()), None);
    }

    #[test]
    fn a_publisher_has_the_same_layout_below_its_fingerprint() {
        let print = "r5fk-b70b-psbb-5vew";
        let of = |place| Place::Of(print.to_owned(), Box::new(place));
        assert_eq!(Place::Root.guess(".by", &never()), Some(Guess::Dir(Place::By)));
        assert_eq!(Place::By.guess(print, &never()), Some(Guess::Dir(of(Place::Root))));
        assert_eq!(of(Place::Root).guess("datasets", &never()), Some(Guess::Dir(of(Place::Datasets))));
        assert_eq!(of(Place::Root).guess("acme", &never()), Some(Guess::Dir(of(org(Kind::Model, "acme")))));
        let sought = Sought { model: "acme/m@v1".parse().unwrap(), publisher: Some(print.to_owned()) };
        assert_eq!(of(org(Kind::Model, "acme")).guess("m@v1", &never()), Some(Guess::Model(sought.clone())));
        assert_eq!(sought.path(), format!(".by/{print}/acme/m@v1"));
        assert_eq!(of(Place::Root).guess(".by", &never()), None);
        let data = of(org(Kind::Dataset, "acme"));
        assert_eq!((data.path(), data.parent()), (format!(".by/{print}/datasets/acme"), of(Place::Datasets)));
        assert_eq!((of(Place::Root).path(), of(Place::Root).parent()), (format!(".by/{print}"), Place::By));
        assert_eq!(Place::By.parent(), Place::Root);
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
        assert_eq!((data.path().as_str(), data.parent()), ("datasets/acme", Place::Datasets));
        assert_eq!(org(Kind::Model, "acme").parent(), Place::Root);
        assert_eq!(Place::Datasets.parent(), Place::Root);
    }
}
