//! The reasons why the tree of a mount cannot answer a request.

/// The reason why the tree cannot answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No inode with this number is shown, or no longer.
    #[error("this inode is no longer shown")]
    Stale,
    /// The inode is not a directory.
    #[error("not a directory")]
    NotDir,
    /// The inode is a directory.
    #[error("is a directory")]
    IsDir,
    /// The inode is not a symbolic link.
    #[error("not a symbolic link")]
    NotLink,
    /// The inode has no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// Several publishers dispute the name of the model.
    #[error("several publishers dispute this name")]
    Disputed,
    /// The hub does not permit this user to read the model.
    #[error("the hub does not permit this user to read it")]
    Denied,
    /// The program that waits is about to end.
    #[error("interrupted by a signal")]
    Interrupted,
    /// The mount is being unmounted.
    #[error("the mount is being unmounted")]
    Stopped,
}
