//! Whether `share`'s argument is a directory or a model that is known already.

use std::path::{Path, PathBuf};

use crate::cli::error::CommandError;
use crate::model::ModelRef;

/// What is to be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory that becomes a model.
    Directory(PathBuf),
    /// A model of the registry.
    Model {
        /// Which one.
        model: ModelRef,
        /// Whether a directory of that name is here too.
        also_directory: bool,
    },
}

/// Decides. `--name` makes it a directory, and so does a leading `.`, `/` or `~`; otherwise what reads as a name is a
/// model, since a directory cannot be shared without `--name`.
pub fn decide(text: &str, named: bool, is_directory: impl Fn(&Path) -> bool) -> Result<Target, CommandError> {
    let path = PathBuf::from(text);
    if named {
        return Ok(Target::Directory(path));
    }
    let like_a_path = text.starts_with(['.', '/', '~']);
    match text.parse::<ModelRef>() {
        Ok(model) if !like_a_path => Ok(Target::Model { model, also_directory: is_directory(&path) }),
        _ if is_directory(&path) => {
            Err(CommandError::usage(format!("{text} needs a name to be shared under"))
                .hint(format!("silmaril share {text} --name ORG/NAME --license ID")))
        }
        _ if like_a_path => Err(CommandError::failed(format!("{text}: no such directory"))),
        Err(error) => {
            Err(CommandError::failed(format!("{text} is neither a directory here nor a model: {error}")))
        }
        // A name never starts like a path.
        Ok(model) => Ok(Target::Model { model, also_directory: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str, also_directory: bool) -> Target {
        Target::Model { model: text.parse().unwrap(), also_directory }
    }

    #[test]
    fn a_name_makes_it_a_directory() {
        assert_eq!(decide("a/b", true, |_| false).unwrap(), Target::Directory("a/b".into()));
    }

    #[test]
    fn what_reads_as_a_model_is_one() {
        assert_eq!(decide("a/b@v1", false, |_| false).unwrap(), model("a/b@v1", false));
        assert_eq!(decide("a/b", false, |_| true).unwrap(), model("a/b", true));
    }

    #[test]
    fn a_directory_without_a_name_is_wrong_usage() {
        for path in ["./a/b", "/srv/a", "mine"] {
            let error = decide(path, false, |_| true).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{path}");
            assert!(error.render().contains("--name ORG/NAME"), "{path}");
        }
    }

    #[test]
    fn what_is_neither_is_not_found() {
        for path in ["./a/b", "/srv/a", "mine", "a/b/c/d"] {
            assert_eq!(decide(path, false, |_| false).unwrap_err().exit_code(), 1, "{path}");
        }
    }
}
