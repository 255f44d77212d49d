//! The paths of requests, as clients of the hub write them. Parts are percent-decoded here and nowhere later.

use axum::http::Method;

use crate::model::text::percent_decode;
use crate::model::{Kind, ModelName};

/// Branches of the hub with slashes in their names, which some clients do not encode.
const REFS: [&str; 2] = ["pr", "convert"];

/// The target of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`.
    Health,
    /// `/api/models/ID` or `/api/models/ID/revision/REV`.
    About(ModelName, Option<String>),
    /// `/api/models/ID/tree/REV[/DIR]`. The directory is empty for the root.
    Tree(ModelName, String, String),
    /// `POST /api/models/ID/paths-info/REV`.
    PathsInfo(ModelName, String),
    /// `/api/models/ID/refs`.
    Refs(ModelName),
    /// `/api/models/ID/commits/REV`.
    Commits(ModelName, String),
    /// `/api/models/ID/auth-check`.
    AuthCheck(ModelName),
    /// `/ID/resolve/REV/PATH`, or `/ID/raw/REV/PATH`.
    File(ModelName, String, String),
    /// `/v2/`: a client of a registry asks whether this is one.
    Registry,
    /// `/v2/ID/manifests/TAG`.
    RegistryManifest(ModelName, String),
    /// `/v2/ID/blobs/DIGEST`.
    RegistryBlob(ModelName, String),
    /// A route of a model whose name cannot be a name here.
    NoName(String),
}

impl Route {
    /// Parses the path of a request; none for a route that does not exist.
    pub fn parse(method: &Method, path: &str) -> Option<Self> {
        let parts: Vec<String> = path.split('/').skip(1).map(percent_decode).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match parts.as_slice() {
            ["healthz"] if is_read => Some(Self::Health),
            ["v2"] | ["v2", ""] if is_read => Some(Self::Registry),
            ["v2", org, name, kind @ ("manifests" | "blobs"), which] if is_read => {
                let Ok(id) = ModelName::new(Kind::Model, org, name) else {
                    return Some(Self::NoName(format!("{org}/{name}")));
                };
                Some(match *kind {
                    "manifests" => Self::RegistryManifest(id, (*which).to_owned()),
                    _ => Self::RegistryBlob(id, (*which).to_owned()),
                })
            }
            ["api", "models", rest @ ..] => Self::of_api(method, Kind::Model, rest),
            ["api", "datasets", rest @ ..] => Self::of_api(method, Kind::Dataset, rest),
            ["datasets", rest @ ..] if is_read => Self::of_file(Kind::Dataset, rest),
            rest if is_read => Self::of_file(Kind::Model, rest),
            _ => None,
        }
    }

    fn of_api(method: &Method, kind: Kind, parts: &[&str]) -> Option<Self> {
        let verbs = ["revision", "tree", "paths-info", "refs", "commits", "auth-check"];
        let (id, rest) = match parts {
            // A name without an organisation.
            [one] => ((*one).to_owned(), [].as_slice()),
            [one, verb, ..] if verbs.contains(verb) => ((*one).to_owned(), &parts[1..]),
            [org, name, rest @ ..] => (format!("{org}/{name}"), rest),
            [] => return None,
        };
        let Ok(id) = ModelName::of_hub(kind, &id) else { return Some(Self::NoName(id)) };
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        Some(match rest {
            [] if is_read => Self::About(id, None),
            ["revision", revision @ ..] if is_read && !revision.is_empty() => {
                Self::About(id, Some(revision.join("/")))
            }
            ["tree", rest @ ..] if is_read => {
                let (revision, dir) = split_revision(rest)?;
                Self::Tree(id, revision, dir.trim_matches('/').to_owned())
            }
            ["paths-info", revision @ ..] if *method == Method::POST && !revision.is_empty() => {
                Self::PathsInfo(id, revision.join("/"))
            }
            ["refs"] if is_read => Self::Refs(id),
            ["commits", revision @ ..] if is_read && !revision.is_empty() => {
                Self::Commits(id, revision.join("/"))
            }
            ["auth-check"] if is_read => Self::AuthCheck(id),
            _ => return None,
        })
    }

    fn of_file(kind: Kind, parts: &[&str]) -> Option<Self> {
        let (id, rest) = match parts {
            [one, "resolve" | "raw", rest @ ..] => ((*one).to_owned(), rest),
            [org, name, "resolve" | "raw", rest @ ..] => (format!("{org}/{name}"), rest),
            _ => return None,
        };
        let Ok(id) = ModelName::of_hub(kind, &id) else { return Some(Self::NoName(id)) };
        let (revision, path) = split_revision(rest)?;
        Some(Self::File(id, revision, path))
    }
}

/// Splits the parts behind `tree` or `resolve` into the revision and the path, which may be empty.
fn split_revision(parts: &[&str]) -> Option<(String, String)> {
    let len = match parts {
        ["refs", kind, _, ..] if REFS.contains(kind) => 3,
        ["", ..] | [] => return None,
        _ => 1,
    };
    Some((parts[..len].join("/"), parts[len..].join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Option<Route> {
        Route::parse(&Method::GET, path)
    }

    #[test]
    fn paths_of_clients_are_parsed() {
        let (m, d): (ModelName, ModelName) = ("acme/m".parse().unwrap(), "datasets/acme/d".parse().unwrap());
        assert_eq!(get("/healthz"), Some(Route::Health));
        assert_eq!(get("/api/models/acme/m"), Some(Route::About(m.clone(), None)));
        assert_eq!(
            get("/api/datasets/acme/d/revision/refs%2Fconvert%2Fparquet"),
            Some(Route::About(d.clone(), Some("refs/convert/parquet".into())))
        );
        assert_eq!(
            get("/api/models/acme/m/tree/main"),
            Some(Route::Tree(m.clone(), "main".into(), String::new()))
        );
        assert_eq!(
            get("/api/models/acme/m/tree/refs/pr/1/a/b"),
            Some(Route::Tree(m.clone(), "refs/pr/1".into(), "a/b".into()))
        );
        assert_eq!(
            Route::parse(&Method::POST, "/api/models/acme/m/paths-info/main"),
            Some(Route::PathsInfo(m.clone(), "main".into()))
        );
        assert_eq!(get("/api/models/acme/m/refs"), Some(Route::Refs(m.clone())));
        assert_eq!(
            get("/acme/m/resolve/main/1_Pooling/a%20b.json"),
            Some(Route::File(m.clone(), "main".into(), "1_Pooling/a b.json".into()))
        );
        assert_eq!(
            get("/datasets/acme/d/resolve/v1/x.parquet"),
            Some(Route::File(d, "v1".into(), "x.parquet".into()))
        );
    }

    #[test]
    fn routes_of_a_registry_are_parsed() {
        let m: ModelName = "acme/m".parse().unwrap();
        assert_eq!(get("/v2/"), Some(Route::Registry));
        let manifest = Route::RegistryManifest(m.clone(), "Q4_K_M".into());
        assert_eq!(get("/v2/acme/m/manifests/Q4_K_M"), Some(manifest));
        let blob = Route::RegistryBlob(m, "sha256:ab".into());
        assert_eq!(get("/v2/acme/m/blobs/sha256:ab"), Some(blob));
        assert_eq!(get("/v2/acme/m/tags/list"), None);
    }

    #[test]
    fn other_paths_are_no_routes() {
        for path in ["/", "", "/acme/m", "/api/agent-harnesses", "/api/models/acme/m/unknown", "/a/b/resolve"]
        {
            assert_eq!(get(path), None, "{path}");
        }
        let gpt2: ModelName = "_/gpt2".parse().unwrap();
        assert_eq!(
            get("/gpt2/resolve/main/config.json"),
            Some(Route::File(gpt2.clone(), "main".into(), "config.json".into()))
        );
        assert_eq!(get("/api/models/gpt2"), Some(Route::About(gpt2.clone(), None)));
        assert_eq!(get("/api/models/gpt2/tree/main"), Some(Route::Tree(gpt2, "main".into(), String::new())));
        assert_eq!(get("/api/models/a%20b"), Some(Route::NoName("a b".into())));
        assert_eq!(get("/api/models/..%2f/m"), Some(Route::NoName("..//m".into())));
        assert_eq!(Route::parse(&Method::POST, "/acme/m/resolve/main/a"), None);
        assert_eq!(Route::parse(&Method::GET, "/api/models/acme/m/paths-info/main"), None);
    }
}
