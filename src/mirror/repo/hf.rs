//! Addresses such as `hf://datasets/org/name@rev/path`, which the libraries of the hub use.

use super::Reference;
use super::error::{RepositoryError, short};
use crate::model::text::percent_decode;
use crate::model::{Kind, ModelName};

/// Branches of the hub with slashes in their names: `refs/pr/7` and `refs/convert/parquet`.
const REFS: [&str; 2] = ["refs/pr/", "refs/convert/"];

/// The parts of an address.
pub(super) struct Parsed {
    pub id: ModelName,
    pub reference: Option<Reference>,
    /// The path inside the repository.
    pub inside: Option<String>,
}

/// Parses `hf://[models/|datasets/]org/name[@rev][/path]`. A `/` in the revision is written as `%2F`, except in `refs/pr/N`
/// and `refs/convert/NAME`.
pub(super) fn parse(text: &str) -> Result<Parsed, RepositoryError> {
    let shape = || RepositoryError::Shape(short(text));
    let (_, address) = text.split_once("://").ok_or_else(shape)?;
    let (kind, address) = match address.split_once('/') {
        Some(("datasets", rest)) => (Kind::Dataset, rest),
        Some(("models", rest)) => (Kind::Model, rest),
        Some(("spaces" | "buckets", _)) => return Err(RepositoryError::NotOfTheHub(short(text))),
        _ => (Kind::Model, address),
    };
    let (org, rest) = address.split_once('/').ok_or_else(shape)?;
    let end = rest.find(['@', '/']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let id = ModelName::new(kind, org, name).map_err(|_| shape())?;
    let (reference, path) = match rest.strip_prefix('@') {
        None => (None, rest),
        Some(rest) => {
            let named = REFS.iter().find(|start| rest.starts_with(**start)).map_or(0, |start| start.len());
            let end = rest[named..].find('/').map_or(rest.len(), |at| named + at);
            let (reference, path) = rest.split_at(end);
            (Some(percent_decode(reference).ok_or_else(shape)?.parse()?), path)
        }
    };
    let inside = Some(path.trim_matches('/')).filter(|path| !path.is_empty()).map(str::to_owned);
    Ok(Parsed { id, reference, inside })
}
