//! Validation of untrusted bencoded bytes before they are decoded.
//!
//! [`check`] reads the bytes once, without recursion, and allocates nothing on the basis of lengths that the bytes claim.
//! It refuses everything that is not strict BEP 3: keys sorted and unique, integers in shortest form, no bytes after the
//! end. Therefore our decoder and the engine's decoder read the same values from an accepted text.

use std::ops::Range;

/// The reason why bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// Not bencode, or not in its strict form.
    #[error("not valid bencode at byte {0}")]
    Syntax(usize),
    /// Nested too deep.
    #[error("nested deeper than {MAX_NESTING} levels")]
    TooDeep,
    /// Too many values.
    #[error("more than {MAX_VALUES} values")]
    TooMany,
    /// Not a dictionary.
    #[error("not a dictionary")]
    NotDictionary,
}

/// The deepest nesting. A torrent needs [`MAX_DEPTH`](super::path::MAX_DEPTH) levels for the components of a path, and four
/// more around them.
pub const MAX_NESTING: usize = 80;
/// The most values and keys: a hybrid torrent of 100 000 files with pad files has about three million.
pub const MAX_VALUES: usize = 4_000_000;

/// The entries of a checked dictionary, with the position of each value.
#[derive(Debug)]
pub struct DictEntries<'a> {
    bytes: &'a [u8],
    entries: Vec<(&'a [u8], Range<usize>)>,
}

impl<'a> DictEntries<'a> {
    /// The bencoded bytes of a key's value.
    pub fn raw(&self, key: &str) -> Option<&'a [u8]> {
        let at = self.entries.iter().find(|(k, _)| *k == key.as_bytes())?;
        Some(&self.bytes[at.1.clone()])
    }

    /// The keys in order, with the bencoded bytes of their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.entries.iter().map(|(key, at)| (*key, &self.bytes[at.clone()]))
    }
}

/// A list or dictionary whose end has not been read yet.
enum Open {
    List,
    /// The last key, and whether its value is still missing.
    Dict(Option<Range<usize>>, bool),
}

/// Checks bencoded bytes that must be a dictionary, and finds its entries.
pub fn check(bytes: &[u8]) -> Result<DictEntries<'_>, BencodeError> {
    let mut open: Vec<Open> = Vec::new();
    let mut entries: Vec<(&[u8], Range<usize>)> = Vec::new();
    let mut at = 0;
    let mut values = 0;
    loop {
        let start = at;
        let syntax = || BencodeError::Syntax(start);
        let byte = *bytes.get(at).ok_or_else(syntax)?;
        values += 1;
        if values > MAX_VALUES {
            return Err(BencodeError::TooMany);
        }
        let awaits_key = matches!(open.last(), Some(Open::Dict(_, false)));
        if open.is_empty() && byte != b'd' {
            return Err(BencodeError::NotDictionary);
        }
        match byte {
            b'0'..=b'9' => {
                let text = string(bytes, at).ok_or_else(syntax)?;
                at = text.end;
                if let Some(Open::Dict(last, false)) = open.last_mut() {
                    if last.clone().is_some_and(|last| bytes[last] >= bytes[text.clone()]) {
                        return Err(syntax());
                    }
                    *last = Some(text.clone());
                    if let [Open::Dict(_, awaits_value)] = &mut open[..] {
                        entries.push((&bytes[text], at..at));
                        *awaits_value = true;
                    } else if let Some(Open::Dict(_, awaits_value)) = open.last_mut() {
                        *awaits_value = true;
                    }
                    continue;
                }
            }
            b'i' if !awaits_key => at = integer(bytes, at).ok_or_else(syntax)?,
            b'l' | b'd' if !awaits_key => {
                if open.len() == MAX_NESTING {
                    return Err(BencodeError::TooDeep);
                }
                open.push(if byte == b'l' { Open::List } else { Open::Dict(None, false) });
                at += 1;
                continue;
            }
            b'e' => match open.pop() {
                Some(Open::List | Open::Dict(_, false)) => at += 1,
                _ => return Err(syntax()),
            },
            _ => return Err(syntax()),
        }
        // A value has ended at `at`.
        match &mut open[..] {
            [] if at == bytes.len() => return Ok(DictEntries { bytes, entries }),
            [] => return Err(BencodeError::Syntax(at)),
            [Open::Dict(_, awaits_value)] => {
                *awaits_value = false;
                if let Some((_, range)) = entries.last_mut() {
                    range.end = at;
                }
            }
            [.., Open::Dict(_, awaits_value)] => *awaits_value = false,
            _ => {}
        }
    }
}

/// The content of the string that starts at `at`.
fn string(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let digits = bytes[at..].iter().take(11).take_while(|b| b.is_ascii_digit()).count();
    if digits > 10 || (digits > 1 && bytes[at] == b'0') || bytes.get(at + digits) != Some(&b':') {
        return None;
    }
    let len: usize = std::str::from_utf8(&bytes[at..at + digits]).ok()?.parse().ok()?;
    let start = at + digits + 1;
    let end = start.checked_add(len).filter(|&end| end <= bytes.len())?;
    Some(start..end)
}

/// The end of the integer that starts at `at`. It must fit an `i64`. The lowest `i64` is refused, because decoders differ
/// on it.
fn integer(bytes: &[u8], at: usize) -> Option<usize> {
    let len = bytes[at..].iter().take(22).position(|&b| b == b'e')?;
    let text = std::str::from_utf8(&bytes[at + 1..at + len]).ok()?;
    let number: i64 = text.parse().ok()?;
    (number != i64::MIN && number.to_string() == text).then_some(at + len + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_found() {
        let text = b"d1:ad1:xi1ee4:infod4:name1:n5:trees1:ale1:z0:e".as_slice();
        assert!(check(text).is_err(), "'s' is no value");
        let text = b"d1:ad1:xi1ee4:infod4:name1:ne1:zli-5e0:lee1:~0:e".as_slice();
        let entries = check(text).unwrap();
        assert_eq!(entries.raw("a"), Some(b"d1:xi1ee".as_slice()));
        assert_eq!(entries.raw("info"), Some(b"d4:name1:ne".as_slice()));
        assert_eq!(entries.raw("z"), Some(b"li-5e0:lee".as_slice()));
        assert_eq!(entries.raw("~"), Some(b"0:".as_slice()));
        assert_eq!(entries.raw("name"), None);
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in [
            "",
            "i1e",
            "le",
            "d",
            "de ",
            "dee",
            "d1:a",
            "d1:ae",
            "d1:b0:1:a0:e",
            "d1:a0:1:a0:e",
            "di1ei2ee",
            "d1:ai01ee",
            "d1:ai-0ee",
            "d1:ai+1ee",
            "d1:aiee",
            "d01:a0:e",
            "d1:a9999999999:e",
            "d1:a99999999999999999999:e",
            "d1:ai9223372036854775808ee",
            "d1:ai-9223372036854775808ee",
            "d1:ai1",
            "d1:ad1:x0:e",
            "dde0:e",
        ] {
            assert!(check(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(
            check(format!("d1:a{}", "l".repeat(1_000_000)).as_bytes()).unwrap_err(),
            BencodeError::TooDeep
        );
        let many = format!("d1:al{}ee", "0:".repeat(MAX_VALUES));
        assert_eq!(check(many.as_bytes()).unwrap_err(), BencodeError::TooMany);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes);
        }

        #[test]
        fn accepted_texts_agree_with_the_decoder(text in "d(1:[a-c]|[0-3]:[a-c]{0,3}|i-?[0-9]{1,3}e|l|d|e){0,12}e") {
            if check(text.as_bytes()).is_ok() {
                let value: bt_bencode::Value = bt_bencode::from_slice(text.as_bytes()).unwrap();
                prop_assert_eq!(bt_bencode::to_vec(&value).unwrap(), text.as_bytes());
            }
        }
    }
}
