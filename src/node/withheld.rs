//! The reasons why models are not shared.

use serde::{Deserialize, Serialize};

/// The reason why a model is not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithheldReason {
    /// It was mirrored with `--no-auto-share`, or fetched with `--seed=false`.
    NotAsked,
    /// Its licence is unknown, or not known to permit it.
    Licence,
    /// The hub requires consent to its conditions (it is gated).
    Gated,
    /// The hub shows it only to some users.
    Private,
}

impl WithheldReason {
    /// Whether the user must confirm the right to share it.
    pub fn needs_right(self) -> bool {
        match self {
            Self::NotAsked => false,
            Self::Licence | Self::Gated | Self::Private => true,
        }
    }

    /// Why, behind "it is not shared: ".
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotAsked => "its sharing was turned off (--no-auto-share, or get --seed=false)",
            Self::Licence => "its licence is not known to permit passing it on",
            Self::Gated => "its hub requires consent to its conditions (it is gated)",
            Self::Private => "it is private at its hub",
        }
    }
}
