//! The macro that turns the table of keys into the configuration, the shape of its file and the description of both.

use super::format::{Format, Read};
use super::keys::{Config, File, SECTIONS};
use crate::yaml;

/// One key of the table.
pub(super) struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// The lines of its description.
    pub text: &'static [&'static str],
    /// Its default, as a file has it.
    pub default: &'static str,
    /// What it accepts.
    pub allowed: fn() -> String,
    /// Its effective value, as a file has it.
    pub write: fn(&Config) -> String,
    /// Whether a file sets it.
    pub is_set: fn(&File) -> bool,
}

/// One section of the table.
pub(super) struct Section {
    /// Its name.
    pub name: &'static str,
    /// Its description, one line.
    pub text: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// All keys, in the order of the table.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

/// Reads a default of the table.
pub(super) fn default<F: Format>(text: &str) -> F::Value {
    let limits = yaml::Limits { bytes: text.len(), values: 1000 };
    let read: Read<F> = yaml::read(text.as_bytes(), limits).expect("the default of a key is accepted by it");
    read.0
}

/// Declares the configuration. Each key has its description, its format, and its default as a file has it:
///
/// ```text
/// /// About the section.
/// section: SectionConfig {
///     /// About the key.
///     key: Format = "default";
/// }
/// ```
///
/// Defines a struct for each section, `Config` with all of them, `File` with what a file sets, and `SECTIONS`, the
/// table itself, from which the documents are made.
macro_rules! configuration {
    ($(
        #[doc = $about:literal]
        $section:ident: $Section:ident {
            $( $(#[doc = $line:literal])+ $key:ident: $format:ty = $default:expr; )+
        }
    )+) => {
        $(
            #[doc = $about]
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $line])+ pub $key: <$format as Format>::Value, )+
            }

            mod $section {
                use super::*;

                /// The keys that a file sets.
                #[derive(Default, Deserialize)]
                #[serde(deny_unknown_fields)]
                pub(in crate::config) struct File {
                    $( pub(in crate::config) $key: Option<Read<$format>>, )+
                }
            }
        )+

        /// The effective configuration.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $( #[doc = $about] pub $section: $Section, )+
        }

        /// A configuration file: every key optional, unknown ones refused.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct File {
            $( pub(super) $section: Option<$section::File>, )+
        }

        impl File {
            /// The defaults, with the values of the file in their place where it has some.
            pub(super) fn over_defaults(self) -> Config {
                Config { $( $section: {
                    let section = self.$section.unwrap_or_default();
                    $Section { $(
                        $key: section.$key.map_or_else(|| table::default::<$format>($default), |read| read.0),
                    )+ }
                }, )+ }
            }
        }

        /// The table of sections and keys.
        pub(super) const SECTIONS: &[Section] = &[$(Section {
            name: stringify!($section),
            text: $about,
            keys: &[$(Key {
                name: concat!(stringify!($section), ".", stringify!($key)),
                text: &[$($line),+],
                default: $default,
                allowed: <$format as Format>::allowed,
                write: |config| <$format as Format>::write(&config.$section.$key),
                is_set: |file| file.$section.as_ref().is_some_and(|section| section.$key.is_some()),
            }),+],
        }),+];
    };
}
pub(super) use configuration;
