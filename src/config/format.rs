//! The trait for formats of values. A value is parsed during the deserialization of the file, so that an error has its
//! line.
//!
//! YAML strings, numbers and booleans are all parsed as text: `"4"` and `4` are equal.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// The format of a value.
pub trait Format: Sized {
    /// The type that the program uses.
    type Value;

    /// Whether a text must not be in an error message.
    const IS_SECRET: bool = false;

    /// A description of valid values that can follow "is not": `a port from 0 to 65535`.
    fn allowed() -> String;

    /// Parses a value. The error is a reason in addition to [`Self::allowed`]; it may be empty.
    fn parse(_text: &str) -> Result<Self::Value, String> {
        Err(String::new())
    }

    /// Formats a value as in a file, without secrets.
    fn write(value: &Self::Value) -> String;

    /// Parses a value of a file.
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(YamlScalar::<Self>(PhantomData))
    }
}

/// A value that was parsed in the format `F`.
pub(super) struct Parsed<F: Format>(pub(super) F::Value);

impl<'de, F: Format> Deserialize<'de> for Parsed<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::deserialize(deserializer).map(Self)
    }
}

/// Parses a scalar of any YAML type as text.
struct YamlScalar<F>(PhantomData<F>);

impl<F: Format> Visitor<'_> for YamlScalar<F> {
    type Value = F::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&F::allowed())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<F::Value, E> {
        F::parse(text.trim()).map_err(|why| {
            let shown = if F::IS_SECRET {
                "the value".to_owned()
            } else {
                format!("{:?}", text.chars().take(80).collect::<String>())
            };
            let why = if why.is_empty() { why } else { format!(": {why}") };
            E::custom(format_args!("{shown} is not {}{why}", F::allowed()))
        })
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<F::Value, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<F::Value, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<F::Value, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> Result<F::Value, E> {
        self.visit_str(if b { "true" } else { "false" })
    }
}

/// A list of values of one format.
#[derive(Debug)]
pub struct List<F>(PhantomData<F>);

impl<F: Format> Format for List<F> {
    type Value = Vec<F::Value>;

    fn allowed() -> String {
        format!("a list in brackets whose elements are each {}", F::allowed())
    }

    fn write(values: &Vec<F::Value>) -> String {
        format!(
            "[{}]",
            values.iter().map(|value| format!("{:?}", F::write(value))).collect::<Vec<_>>().join(", ")
        )
    }

    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<F::Value>, D::Error> {
        deserializer.deserialize_any(Elements::<F>(PhantomData))
    }
}

/// Parses a list of any length.
struct Elements<F>(PhantomData<F>);

impl<'de, F: Format> Visitor<'de> for Elements<F> {
    type Value = Vec<F::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&List::<F>::allowed())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<F::Value>, A::Error> {
        let mut next = || Ok(list.next_element::<Parsed<F>>()?.map(|parsed| parsed.0));
        std::iter::from_fn(|| next().transpose()).collect()
    }
}

/// A value that may be empty.
#[derive(Debug)]
pub struct Optional<F>(PhantomData<F>);

impl<F: Format> Format for Optional<F> {
    type Value = Option<F::Value>;

    const IS_SECRET: bool = F::IS_SECRET;

    fn allowed() -> String {
        format!("{}, or empty", F::allowed())
    }

    fn parse(text: &str) -> Result<Option<F::Value>, String> {
        if text.is_empty() { Ok(None) } else { F::parse(text).map(Some) }
    }

    fn write(value: &Option<F::Value>) -> String {
        value.as_ref().map_or_else(|| "\"\"".to_owned(), F::write)
    }
}

/// Defines a format: the type of its values, the description, a parser, and a formatter (`Display` if it is omitted).
macro_rules! format_of {
    ($(#[$doc:meta])* $name:ident -> $value:ty: $allowed:expr, $parse:expr) => {
        format_of!($(#[$doc])* $name -> $value: $allowed, $parse, |value| value.to_string());
    };
    ($(#[$doc:meta])* $name:ident -> $value:ty: $allowed:expr, $parse:expr, $write:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl Format for $name {
            type Value = $value;

            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn parse(text: &str) -> Result<$value, String> {
                let parse: fn(&str) -> Result<$value, String> = $parse;
                parse(text)
            }

            fn write(value: &$value) -> String {
                let write: fn(&$value) -> String = $write;
                write(value)
            }
        }
    };
}

/// Defines an enum and its format. Each variant is a word that a key accepts, with synonyms.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident: $allowed:literal { $(
        $(#[$about:meta])* $variant:ident = $word:literal $(| $synonym:literal)*
    ),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$about])* $variant),+ }

        impl Format for $name {
            type Value = Self;

            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn parse(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word $(| $synonym)* => Ok(Self::$variant),)+
                    _ => Err(String::new()),
                }
            }

            fn write(value: &Self) -> String {
                value.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}
pub(super) use {choice, format_of};
