//! The macro that generates the configuration types from the table of keys.

use super::format::{Format, Parsed};
use super::keys::{Config, File, SECTIONS};
use crate::yaml;

/// One key of the table.
pub(super) struct KeyEntry {
    /// `section.key`.
    pub name: &'static str,
    /// The lines of the description.
    pub text: &'static [&'static str],
    /// The default, as in a file.
    pub default: &'static str,
    /// The description of valid values.
    pub allowed: fn() -> String,
    /// Formats the effective value as in a file.
    pub write: fn(&Config) -> String,
    /// Whether a file sets the key.
    pub is_set: fn(&File) -> bool,
}

/// One section of the table.
pub(super) struct Section {
    pub name: &'static str,
    /// The description, one line.
    pub text: &'static str,
    pub keys: &'static [KeyEntry],
}

/// All keys, in the order of the table.
pub(super) fn keys() -> impl Iterator<Item = &'static KeyEntry> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

/// Parses a default of the table.
pub(super) fn default<F: Format>(text: &str) -> F::Value {
    let limits = yaml::YamlLimits { bytes: text.len(), values: 1000 };
    let parsed: Parsed<F> = yaml::read(text.as_bytes(), limits).expect("the default of a key is valid");
    parsed.0
}

/// Declares the configuration. Each key has a description, a format, and a default as in a file:
///
/// ```text
/// /// About the section.
/// section: SectionConfig {
///     /// About the key.
///     key: Format = "default";
/// }
/// ```
///
/// Defines a struct for each section, `Config` with all sections, `File` with the keys that a file sets, and the table
/// `SECTIONS`, from which the documents are generated.
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
                    $( pub(in crate::config) $key: Option<Parsed<$format>>, )+
                }
            }
        )+

        /// The effective configuration.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $( #[doc = $about] pub $section: $Section, )+
        }

        /// A configuration file. Every key is optional; unknown keys are refused.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct File {
            $( pub(super) $section: Option<$section::File>, )+
        }

        impl File {
            /// The values of the file, and the defaults for keys that the file does not set.
            pub(super) fn over_defaults(self) -> Config {
                Config { $( $section: {
                    let section = self.$section.unwrap_or_default();
                    $Section { $(
                        $key: section.$key.map_or_else(|| table::default::<$format>($default), |parsed| parsed.0),
                    )+ }
                }, )+ }
            }
        }

        /// The table of sections and keys.
        pub(super) const SECTIONS: &[Section] = &[$(Section {
            name: stringify!($section),
            text: $about,
            keys: &[$(KeyEntry {
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
