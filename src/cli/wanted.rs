//! Parses the argument of `get`: a name, or an address of the hub that a user copied from a browser or a program.

use url::Url;

use crate::cli::error::CommandError;
use crate::mirror::repo::{ParsedRepository, RepositoryError};
use crate::mirror::{GitRepository, MirrorError, Repository};
use crate::model::names::NameError;
use crate::model::{Kind, ModelName, ModelRef, Revision};
use crate::node::NodeError;

/// Addresses of the hub in documents and model cards; they are recognised even if a mirror of the hub is configured.
const HUBS: [&str; 4] =
    ["https://huggingface.co", "https://hf.co", "https://www.huggingface.co", "http://huggingface.co"];

/// Parses `org/name[@rev]`, `hf://…` or an address of the hub at `endpoint` or at Hugging Face. Only the name and the
/// revision of an address are used: the model is looked up like a model given by name. Fails with a usage error.
pub fn model(text: &str, endpoint: &Url) -> Result<ModelRef, CommandError> {
    let text = text.trim();
    if !text.contains("://") {
        // Browsers show addresses without the scheme.
        return match HUBS
            .iter()
            .filter_map(|hub| hub.strip_prefix("https://"))
            .find(|hub| is_below(text, hub))
        {
            Some(_) => model(&format!("https://{text}"), endpoint),
            // The same text as clap's for a bad value.
            None => named_here(&without_slashes(text)).map_err(|error| {
                CommandError::usage(format!("invalid value '{text}' for '<MODEL|URL>': {error}"))
            }),
        };
    }
    let found =
        named(text, endpoint).map_err(|e| CommandError::from(NodeError::from(MirrorError::from(e))))?;
    let ParsedRepository { repository, reference, inside } = found;
    let (Repository::Hub(hub) | Repository::Git(GitRepository { hub: Some(hub), .. })) = repository else {
        return Err(CommandError::usage(format!("{repository} is not an address of the hub"))
            .hint("`silmaril mirror URL` clones a git repository"));
    };
    let revision = match &reference {
        Some(reference) => reference.as_str().replace('/', "-").parse().map_err(CommandError::usage)?,
        None => Revision::default(),
    };
    let model = ModelRef { name: hub.id, revision };
    match inside {
        None => Ok(model),
        Some(path) => Err(CommandError::usage(format!("the address names {path}, which is part of {model}"))
            .hint(format!("silmaril get {model} --include '{}'", globset::escape(&path)))),
    }
}

/// Parses `org/name[@rev]`, or `name[@rev]` for a model that the hub names by one word.
fn named_here(text: &str) -> Result<ModelRef, NameError> {
    if text.contains('/') {
        return text.parse();
    }
    let (word, revision) = text.split_once('@').map_or((text, None), |(word, rev)| (word, Some(rev)));
    let revision = revision.map(str::parse).transpose()?.unwrap_or_default();
    Ok(ModelRef { name: ModelName::of_hub(Kind::Model, word)?, revision })
}

/// A name with a branch such as `refs/pr/1` as a name with a revision, which has no slash: `refs-pr-1`.
fn without_slashes(text: &str) -> String {
    match text.split_once("@refs/") {
        Some((name, branch)) => format!("{name}@refs-{}", branch.replace('/', "-")),
        None => text.to_owned(),
    }
}

fn named(text: &str, endpoint: &Url) -> Result<ParsedRepository, RepositoryError> {
    let first = Repository::parse(text, endpoint);
    if !matches!(
        &first,
        Ok(ParsedRepository { repository: Repository::Git(GitRepository { hub: None, .. }), .. })
            | Err(RepositoryError::Extra(_))
    ) {
        return first;
    }
    // Not an address of the configured hub: try the addresses of Hugging Face.
    let hubs = HUBS.iter().filter_map(|hub| Repository::parse(text, &hub.parse().ok()?).ok());
    let of_a_hub = |named: &ParsedRepository| match &named.repository {
        Repository::Hub(_) => true,
        Repository::Git(git) => git.hub.is_some(),
    };
    hubs.into_iter().find(of_a_hub).map_or(first, Ok)
}

fn is_below(text: &str, hub: &str) -> bool {
    // An organisation may have a name like a host, but an address has more than two components.
    text.strip_prefix(hub)
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|path| path.parse::<ModelName>().is_ok() || path.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, CommandError> {
        model(text, &"https://mirror.example/hf".parse().unwrap()).map(|model| model.to_string())
    }

    #[test]
    fn hub_addresses_give_a_model_and_its_revision() {
        for (text, expected) in [
            ("org/name", "org/name"),
            ("gpt2", "_/gpt2"),
            ("gpt2@v1", "_/gpt2@v1"),
            ("org/name@v1", "org/name@v1"),
            ("org/name@main", "org/name"),
            ("datasets/org/name@v1", "datasets/org/name@v1"),
            ("https://huggingface.co/org/name", "org/name"),
            ("https://huggingface.co/org/name/", "org/name"),
            ("https://hf.co/org/name?library=transformers", "org/name"),
            ("https://huggingface.co/org/name/tree/main", "org/name"),
            ("https://huggingface.co/org/name/tree/v1.0", "org/name@v1.0"),
            ("https://huggingface.co/datasets/org/name", "datasets/org/name"),
            ("https://huggingface.co/datasets/org/name/tree/v2", "datasets/org/name@v2"),
            ("https://mirror.example/hf/org/name/tree/v1", "org/name@v1"),
            ("https://user:token@huggingface.co/org/name", "org/name"),
            ("huggingface.co/org/name", "org/name"),
            ("hf.co/org/name/tree/v1", "org/name@v1"),
            ("hf://org/name", "org/name"),
            ("hf://org/name@v1", "org/name@v1"),
            ("hf://datasets/org/name@v1", "datasets/org/name@v1"),
            ("hf.co/name", "hf.co/name"),
            ("org/name@refs/pr/1", "org/name@refs-pr-1"),
            ("hf://org/name@refs/pr/1", "org/name@refs-pr-1"),
        ] {
            assert_eq!(read(text).unwrap_or_else(|e| panic!("{text}: {}", e.render())), expected, "{text}");
        }
    }

    #[test]
    fn other_addresses_are_wrong_usage() {
        for text in [
            "a name",
            "https://huggingface.co/spaces/org/name",
            "https://huggingface.co/gpt2",
            "https://git.example/org/name.git",
            "https://mirror.example/other/org/name",
            "ftp://huggingface.co/org/name",
            "/srv/model",
            "file:///srv/model",
        ] {
            assert_eq!(read(text).expect_err(text).exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn path_in_a_repository_is_refused_with_a_hint() {
        for text in ["https://huggingface.co/org/name/blob/v1/a/[x].json", "hf://org/name@v1/a/[x].json"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let help = "help: silmaril get org/name@v1 --include 'a/[[]x[]].json'";
            assert!(error.render().contains(help), "{}", error.render());
        }
    }
}
