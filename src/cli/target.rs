//! Decides whether the argument of `share` is a directory or the name of a model.

use std::path::{Path, PathBuf};

use crate::cli::error::CommandError;
use crate::cli::format::shell_quoted;
use crate::model::ModelRef;

/// The meaning of the argument of `share`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareTarget {
    /// A directory that becomes a model.
    Directory(PathBuf),
    /// A model of the registry.
    Model {
        model: ModelRef,
        /// Whether the working directory has a directory with the same name.
        also_directory: bool,
    },
}

/// Decides. With `--name` (`named`) the argument is a directory, and also if it starts with `.`, `/` or `~`. Otherwise a
/// text in the form of a name is a model, because a directory cannot be shared without `--name`.
pub fn decide(
    text: &str,
    named: bool,
    is_directory: impl Fn(&Path) -> bool,
) -> Result<ShareTarget, CommandError> {
    let path = PathBuf::from(text);
    if named {
        return Ok(ShareTarget::Directory(path));
    }
    let like_a_path = text.starts_with(['.', '/', '~']);
    match text.parse::<ModelRef>() {
        Ok(model) if !like_a_path => Ok(ShareTarget::Model { model, also_directory: is_directory(&path) }),
        _ if is_directory(&path) => Err(CommandError::usage(format!("the directory {text} needs a name"))
            .hint(format!("silmaril share {} --name ORG/NAME --license ID", shell_quoted(text)))),
        _ if like_a_path => Err(CommandError::failed(format!("{text}: no such directory"))),
        Err(error) => Err(CommandError::failed(format!(
            "{text} is neither a directory nor the name of a model: {error}"
        ))),
        // Unreachable: a valid name does not start like a path.
        Ok(model) => Ok(ShareTarget::Model { model, also_directory: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str, also_directory: bool) -> ShareTarget {
        ShareTarget::Model { model: text.parse().unwrap(), also_directory }
    }

    #[test]
    fn argument_with_a_name_is_a_directory() {
        assert_eq!(decide("a/b", true, |_| false).unwrap(), ShareTarget::Directory("a/b".into()));
    }

    #[test]
    fn argument_in_the_form_of_a_name_is_a_model() {
        assert_eq!(decide("a/b@v1", false, |_| false).unwrap(), model("a/b@v1", false));
        assert_eq!(decide("a/b", false, |_| true).unwrap(), model("a/b", true));
    }

    #[test]
    fn directory_without_a_name_is_wrong_usage() {
        for path in ["./a/b", "/srv/a", "mine"] {
            let error = decide(path, false, |_| true).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{path}");
            assert!(error.render().contains("--name ORG/NAME"), "{path}");
        }
    }

    #[test]
    fn other_arguments_are_not_found() {
        for path in ["./a/b", "/srv/a", "mine", "a/b/c/d"] {
            assert_eq!(decide(path, false, |_| false).unwrap_err().exit_code(), 1, "{path}");
        }
    }
}
