//! Reading and writing the dictionaries of records and messages.
//!
//! Bytes from peers pass [`bencode::check`] first: strict form, no recursion. Fields are then read in place, so lengths that
//! the bytes claim allocate nothing, and a record takes a few microseconds.

use std::collections::BTreeMap;

use bt_bencode::{ByteString, Value};

use crate::model::bencode;

/// The fault of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

const NOT_BENCODE: Malformed = Malformed("it is not a bencoded dictionary in strict form");
const MISSING: Malformed = Malformed("a field is missing");
const WRONG_TYPE: Malformed = Malformed("a field has the wrong type");
const RANGE: Malformed = Malformed("a field is out of its range");

/// A dictionary that is being read.
pub(super) struct Fields<'a>(bencode::DictEntries<'a>);

impl<'a> Fields<'a> {
    /// Reads bytes that must be one dictionary in strict form.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        bencode::check(bytes).map(Self).map_err(|_| NOT_BENCODE)
    }

    /// The bencoded bytes of a value, if it is there.
    pub fn raw(&self, key: &str) -> Option<&'a [u8]> {
        self.0.raw(key)
    }

    /// A string, if it is there.
    pub fn maybe_bytes(&self, key: &str) -> Result<Option<&'a [u8]>, Malformed> {
        self.raw(key).map(|raw| string(raw).map(|(content, _)| content).ok_or(WRONG_TYPE)).transpose()
    }

    /// A string.
    pub fn bytes(&self, key: &str) -> Result<&'a [u8], Malformed> {
        self.maybe_bytes(key)?.ok_or(MISSING)
    }

    /// A string of a known length.
    pub fn array<const N: usize>(&self, key: &str) -> Result<[u8; N], Malformed> {
        self.bytes(key)?.try_into().map_err(|_| RANGE)
    }

    /// A string of UTF-8.
    pub fn text(&self, key: &str) -> Result<&'a str, Malformed> {
        text(self.bytes(key)?)
    }

    /// An integer of at least 0, if it is there.
    pub fn maybe_number<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, Malformed> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        let digits = raw.strip_prefix(b"i").and_then(|raw| raw.strip_suffix(b"e")).ok_or(WRONG_TYPE)?;
        let number: u64 = text(digits)?.parse().map_err(|_| RANGE)?;
        T::try_from(number).map(Some).map_err(|_| RANGE)
    }

    /// An integer of at least 0.
    pub fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<T, Malformed> {
        self.maybe_number(key)?.ok_or(MISSING)
    }

    /// A list of at most `most` strings; an absent one is empty.
    pub fn strings(&self, key: &str, most: usize) -> Result<Vec<&'a [u8]>, Malformed> {
        let Some(raw) = self.raw(key) else { return Ok(Vec::new()) };
        let mut rest = raw.strip_prefix(b"l").ok_or(WRONG_TYPE)?;
        let mut strings = Vec::new();
        while rest != b"e" {
            if strings.len() == most {
                return Err(Malformed("a list is too long"));
            }
            let (content, after) = string(rest).ok_or(WRONG_TYPE)?;
            strings.push(content);
            rest = after;
        }
        Ok(strings)
    }

    /// A string of entries of `N` bytes each, at most `most`; an absent one is empty.
    pub fn entries<const N: usize>(&self, key: &str, most: usize) -> Result<&'a [[u8; N]], Malformed> {
        let (entries, rest) = self.maybe_bytes(key)?.unwrap_or_default().as_chunks::<N>();
        if entries.len() > most {
            return Err(Malformed("a list is too long"));
        }
        if rest.is_empty() { Ok(entries) } else { Err(RANGE) }
    }
}

/// Bytes that must be UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))
}

/// The content of the bencoded string at the beginning of bytes that have passed [`bencode::check`], and the rest.
fn string(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = raw.iter().take(11).take_while(|byte| byte.is_ascii_digit()).count();
    let len: usize = std::str::from_utf8(&raw[..digits]).ok()?.parse().ok()?;
    raw[digits..].strip_prefix(b":")?.split_at_checked(len)
}

/// A dictionary that is being written.
#[derive(Default)]
pub(super) struct MessageWriter(BTreeMap<ByteString, Value>);

impl MessageWriter {
    /// Adds a string.
    pub fn bytes(mut self, key: &str, bytes: &[u8]) -> Self {
        self.0.insert(key.into(), Value::ByteStr(bytes.into()));
        self
    }

    /// Adds a string, if there is one.
    pub fn maybe_bytes(self, key: &str, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.bytes(key, bytes),
            None => self,
        }
    }

    /// Adds an integer.
    pub fn number(mut self, key: &str, number: u64) -> Self {
        self.0.insert(key.into(), number.into());
        self
    }

    /// Adds a list of strings, unless it is empty.
    pub fn strings<B: AsRef<[u8]>>(mut self, key: &str, strings: impl Iterator<Item = B>) -> Self {
        let list: Vec<Value> =
            strings.map(|bytes| Value::ByteStr(ByteString::from(bytes.as_ref()))).collect();
        if !list.is_empty() {
            self.0.insert(key.into(), Value::List(list));
        }
        self
    }

    /// The dictionary in canonical form.
    pub fn finish(self) -> Vec<u8> {
        bt_bencode::to_vec(&Value::Dict(self.0)).expect("a bencode value in memory can always be written")
    }
}
