//! Reading and writing the dictionaries of records and messages.
//!
//! Bytes from strangers pass [`bencode::check`] before a value is built of them: strict form, no recursion, and so
//! never more memory than a small multiple of their length.

use std::collections::BTreeMap;

use bt_bencode::{ByteString, Value};

use crate::model::bencode;

/// What is wrong with a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

const NOT_BENCODE: Malformed = Malformed("it is no bencoded dictionary in strict form");
const MISSING: Malformed = Malformed("a field is missing");
const WRONG_TYPE: Malformed = Malformed("a field has the wrong type");
const RANGE: Malformed = Malformed("a field is out of its range");

/// A dictionary that is being read.
pub(super) struct Fields(BTreeMap<ByteString, Value>);

impl Fields {
    /// Reads bytes that must be one dictionary in strict form.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        bencode::check(bytes).map_err(|_| NOT_BENCODE)?;
        match bt_bencode::from_slice(bytes) {
            Ok(Value::Dict(fields)) => Ok(Self(fields)),
            _ => Err(NOT_BENCODE),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key.as_bytes())
    }

    /// A string, if it is there.
    pub fn maybe_bytes(&self, key: &str) -> Result<Option<&[u8]>, Malformed> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::ByteStr(bytes)) => Ok(Some(bytes.as_slice())),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// A string.
    pub fn bytes(&self, key: &str) -> Result<&[u8], Malformed> {
        self.maybe_bytes(key)?.ok_or(MISSING)
    }

    /// A string of a known length.
    pub fn array<const N: usize>(&self, key: &str) -> Result<[u8; N], Malformed> {
        self.bytes(key)?.try_into().map_err(|_| RANGE)
    }

    /// A string of UTF-8.
    pub fn text(&self, key: &str) -> Result<&str, Malformed> {
        text(self.bytes(key)?)
    }

    /// An integer of at least 0, if it is there.
    pub fn maybe_number<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, Malformed> {
        match self.get(key) {
            None => Ok(None),
            Some(number @ Value::Int(_)) => {
                let number = number.as_u64().ok_or(RANGE)?;
                T::try_from(number).map(Some).map_err(|_| RANGE)
            }
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// An integer of at least 0.
    pub fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<T, Malformed> {
        self.maybe_number(key)?.ok_or(MISSING)
    }

    /// A list of at most `most` strings; an absent one is empty.
    pub fn strings(&self, key: &str, most: usize) -> Result<Vec<&[u8]>, Malformed> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::List(list)) if list.len() > most => Err(Malformed("a list is too long")),
            Some(Value::List(list)) => list
                .iter()
                .map(|item| match item {
                    Value::ByteStr(bytes) => Ok(bytes.as_slice()),
                    _ => Err(WRONG_TYPE),
                })
                .collect(),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// A string of entries of `N` bytes each, at most `most`; an absent one is empty.
    pub fn entries<const N: usize>(&self, key: &str, most: usize) -> Result<Vec<&[u8; N]>, Malformed> {
        let (entries, rest) = self.maybe_bytes(key)?.unwrap_or_default().as_chunks::<N>();
        if entries.len() > most {
            return Err(Malformed("a list is too long"));
        }
        if !rest.is_empty() {
            return Err(RANGE);
        }
        Ok(entries.iter().collect())
    }
}

/// Bytes that must be UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))
}

/// The content of a bencoded string that [`bencode::check`] has seen.
pub(super) fn string(raw: &[u8]) -> Option<&[u8]> {
    let colon = raw.iter().take(12).position(|&byte| byte == b':')?;
    raw[..colon].iter().all(u8::is_ascii_digit).then(|| &raw[colon + 1..])
}

/// A dictionary that is being written.
#[derive(Default)]
pub(super) struct Writer(BTreeMap<ByteString, Value>);

impl Writer {
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
