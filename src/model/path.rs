//! The relative paths that a torrent may have, and their canonical order.
//!
//! A path that passed [`check_path`] stays below the directory to which it is joined, cannot be a repository or a file of
//! silmaril itself, and can be created on any Linux file system.

use std::cmp::Ordering;

use super::text::{clean, is_bidirectional};
use crate::fsutil::PARTIAL_SUFFIX;

/// The longest path, in bytes.
pub const MAX_PATH: usize = 4096;
/// The longest component, in bytes.
pub const MAX_PATH_COMPONENT: usize = 255;
/// The most components. The file tree has one level for each, and libtorrent reads at most about a hundred levels.
pub const MAX_DEPTH: usize = 64;

/// The reason why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path {path:?} {why}")]
pub struct PathError {
    /// The path, cut to a readable length.
    pub path: String,
    /// The reason.
    pub why: PathProblem,
}

/// The reason why a path is refused. The text is a predicate whose subject is the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// An empty path, `//`, or a slash at the end.
    #[error("has an empty component")]
    Empty,
    /// `.` or `..`.
    #[error("has a component '.' or '..'")]
    Dots,
    /// Starts with a slash.
    #[error("is absolute")]
    Absolute,
    /// NUL, newline, escape or a similar character.
    #[error("has a control character")]
    Control,
    /// A right-to-left override or a similar character.
    #[error("has a character that changes the direction of text")]
    Bidirectional,
    /// A backslash, which is a separator on other systems.
    #[error("has a backslash")]
    Backslash,
    /// More than [`MAX_PATH`] bytes.
    #[error("is longer than {MAX_PATH} bytes")]
    TooLong,
    /// A component of more than [`MAX_PATH_COMPONENT`] bytes.
    #[error("has a component longer than {MAX_PATH_COMPONENT} bytes")]
    ComponentTooLong,
    /// More than [`MAX_DEPTH`] components.
    #[error("has more than {MAX_DEPTH} components")]
    TooDeep,
    /// A component for which [`is_reserved`] is true.
    #[error(
        "has a component that is never part of a model (.git, .cache, .silmaril.json, *{PARTIAL_SUFFIX})"
    )]
    Reserved,
    /// The list has the path twice.
    #[error("occurs twice")]
    Duplicate,
    /// Another path has this one as a directory.
    #[error("is both a file and a directory")]
    FileAndDirectory,
}

impl PathProblem {
    fn of(self, path: &str) -> PathError {
        PathError { path: path.chars().take(120).collect(), why: self }
    }
}

/// Whether a file or directory with this name is never part of a model: repositories, download caches, silmaril's manifest
/// and unfinished files.
pub fn is_reserved(component: &str) -> bool {
    is_git(component)
        || matches!(component, ".cache" | ".silmaril.json")
        || component.ends_with(PARTIAL_SUFFIX)
}

/// Whether some file system takes a name for `.git`: in any case (FAT, NTFS, macOS), with invisible characters (macOS), with
/// dots and spaces at the end, or as the short name that DOS gives it (FAT, NTFS). Models are copied to such file systems.
fn is_git(component: &str) -> bool {
    let plain = clean(component).to_ascii_lowercase();
    matches!(plain.trim_end_matches(['.', ' ']), ".git" | "git~1")
}

/// Whether the character ends a line or controls a terminal.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Checks one component. The name of a torrent must pass the same check.
pub fn check_component(component: &str) -> Result<(), PathProblem> {
    match component {
        "" => Err(PathProblem::Empty),
        "." | ".." => Err(PathProblem::Dots),
        c if c.contains('/') => Err(PathProblem::Absolute),
        c if c.contains('\\') => Err(PathProblem::Backslash),
        c if c.chars().any(is_control) => Err(PathProblem::Control),
        c if c.chars().any(is_bidirectional) => Err(PathProblem::Bidirectional),
        c if c.len() > MAX_PATH_COMPONENT => Err(PathProblem::ComponentTooLong),
        c if is_reserved(c) => Err(PathProblem::Reserved),
        _ => Ok(()),
    }
}

/// Checks a relative path with `/` between its components.
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.starts_with('/') {
        return Err(PathProblem::Absolute.of(path));
    }
    if path.len() > MAX_PATH {
        return Err(PathProblem::TooLong.of(path));
    }
    if path.split('/').count() > MAX_DEPTH {
        return Err(PathProblem::TooDeep.of(path));
    }
    path.split('/').try_for_each(check_component).map_err(|why| why.of(path))
}

/// The canonical order of files: by the raw bytes of the components, as in the file tree of BEP 52. It differs from the
/// order of the whole strings: `a/b` comes before `a.b`.
pub fn compare(a: &str, b: &str) -> Ordering {
    a.split('/').map(str::as_bytes).cmp(b.split('/').map(str::as_bytes))
}

/// Checks every path of a list in canonical order, and that no two paths conflict.
pub fn check_sorted<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<(), PathError> {
    let mut last: Option<&str> = None;
    for path in paths {
        check_path(path)?;
        if let Some(last) = last {
            if last == path {
                return Err(PathProblem::Duplicate.of(path));
            }
            // In canonical order the paths below a name follow directly after it.
            if path.strip_prefix(last).is_some_and(|rest| rest.starts_with('/')) {
                return Err(PathProblem::FileAndDirectory.of(last));
            }
        }
        last = Some(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn hostile_paths_are_refused_with_the_reason() {
        use PathProblem::*;
        let long = "x".repeat(256);
        let deep = "d/".repeat(64) + "f";
        for (path, why) in [
            ("", Empty),
            ("a//b", Empty),
            ("a/", Empty),
            ("/etc/passwd", Absolute),
            ("..", Dots),
            ("a/../b", Dots),
            ("./a", Dots),
            ("a\\b", Backslash),
            ("a\0b", Control),
            ("a\nb", Control),
            ("a\u{9b}b", Control),
            ("a\u{2028}b", Control),
            ("gpj.\u{202e}nib", Bidirectional),
            ("a/\u{2067}b", Bidirectional),
            ("\u{200f}a", Bidirectional),
            (long.as_str(), ComponentTooLong),
            (deep.as_str(), TooDeep),
            (".git/config", Reserved),
            ("sub/.git/hooks/post-checkout", Reserved),
            (".GIT/config", Reserved),
            ("sub/.Git/hooks/post-checkout", Reserved),
            (".g\u{200c}it/config", Reserved),
            ("\u{feff}.git", Reserved),
            (".git./config", Reserved),
            (".git /config", Reserved),
            ("GIT~1/config", Reserved),
            (".silmaril.json", Reserved),
            ("w.safetensors.silmaril-partial", Reserved),
        ] {
            assert_eq!(check_path(path).unwrap_err().why, why, "{path:?}");
        }
        assert_eq!(check_path(&"abc/".repeat(1025)).unwrap_err().why, TooLong);
    }

    #[test]
    fn ordinary_paths_are_accepted() {
        for path in [
            "config.json",
            ".gitattributes",
            "1_Pooling/config.json",
            "模型/weights 1.bin",
            "نموذج/👩\u{200d}🚀.txt",
            "...",
            "a..b",
            "-x",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn conflicts_are_found() {
        let check = |paths: &[&str]| check_sorted(paths.iter().copied()).map_err(|e| e.why);
        assert_eq!(check(&["a", "a"]), Err(PathProblem::Duplicate));
        assert_eq!(check(&["a", "a/b"]), Err(PathProblem::FileAndDirectory));
        assert_eq!(check(&["a/b", "a.b"]), Ok(()));
    }

    fn any_path() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c./\\\\\u{0}é-]{0,12}",
            proptest::collection::vec(
                prop_oneof!["[a-b.]{1,3}", Just("..".to_owned()), Just(".git".into())],
                1..5
            )
            .prop_map(|parts| parts.join("/")),
            any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn no_accepted_path_escapes(path in any_path()) {
            if check_path(&path).is_ok() {
                let joined = Path::new("/base").join(&path);
                prop_assert!(joined.starts_with("/base"));
                prop_assert!(Path::new(&path).components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(Path::new(&path).components().count(), path.split('/').count());
            }
        }

        #[test]
        fn every_conflict_in_a_sorted_list_is_found(mut paths in proptest::collection::vec("[ab.]{1,2}(/[ab.]{1,2}){0,2}", 0..8)) {
            paths.sort_by(|a, b| compare(a, b));
            let clash = paths.iter().enumerate().any(|(i, a)| {
                check_path(a).is_err()
                    || paths.iter().enumerate().any(|(j, b)| i != j && (a == b || b.starts_with(&format!("{a}/"))))
            });
            prop_assert_eq!(check_sorted(paths.iter().map(String::as_str)).is_err(), clash);
        }

        #[test]
        fn paths_are_ordered_as_component_lists(a in any_path(), b in any_path()) {
            let split = |p: &str| p.split('/').map(|c| c.as_bytes().to_vec()).collect::<Vec<_>>();
            prop_assert_eq!(compare(&a, &b), split(&a).cmp(&split(&b)));
        }
    }
}
