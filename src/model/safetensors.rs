//! Headers of `.safetensors` files: 8 bytes of length (little endian), then JSON, then the tensors' bytes.
//!
//! The header is untrusted. It is bounded before it is parsed, and accepted by the rules of the reference reader: the
//! tensors cover the data exactly, without overlap or gap, and the size of each follows from its type and shape.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The longest header, in bytes: the limit of the reference reader.
pub const MAX_HEADER: u64 = 100_000_000;
/// The most JSON values in a header. Bounded separately, because a value needs more memory than its bytes.
const MAX_VALUES: usize = 4_000_000;
/// Bytes before the header.
pub const LENGTH_LEN: u64 = 8;

/// The reason why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    /// The input ends within the header.
    #[error("the header is cut off")]
    Truncated,
    /// Longer than [`MAX_HEADER`], or than the file.
    #[error("the header claims {0} bytes")]
    HeaderLength(u64),
    /// Too many values.
    #[error("the header has more than {MAX_VALUES} values")]
    TooManyValues,
    /// Not the JSON of a header.
    #[error("the header is malformed: {0}")]
    Json(String),
    /// Two tensors of one name.
    #[error("the tensor {0:?} occurs twice")]
    Duplicate(String),
    /// Tensors overlap, leave a gap, or end before they start.
    #[error("the bytes of tensor {0:?} do not follow directly after the previous tensor")]
    Offsets(String),
    /// Type and shape give another size.
    #[error("the size of tensor {0:?} does not match its type and shape")]
    Size(String),
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Type as in the header, such as `BF16`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Position of its bytes in the file.
    pub range: Range<u64>,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n)).unwrap_or(u64::MAX)
    }
}

/// A header that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// End of the header and beginning of the first tensor, in bytes from the start of the file.
    pub end: u64,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl TensorHeader {
    /// End of the last tensor, which is the expected length of the file.
    pub fn file_len(&self) -> u64 {
        self.tensors.last().map_or(self.end, |tensor| tensor.range.end)
    }

    /// Number of elements of each type.
    pub fn elements_by_dtype(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for tensor in &self.tensors {
            let count: &mut u64 = counts.entry(tensor.dtype.as_str()).or_default();
            *count = count.saturating_add(tensor.elements());
        }
        counts
    }
}

/// Bits of one element; none for unknown types.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        "C128" => 128,
        _ => return None,
    })
}

/// The length of the JSON in a file of `file_len` bytes, from the first 8 bytes.
pub fn header_len(first: [u8; 8], file_len: u64) -> Result<u64, SafetensorsError> {
    let len = u64::from_le_bytes(first);
    if !(2..=MAX_HEADER).contains(&len) || len > file_len.saturating_sub(LENGTH_LEN) {
        return Err(SafetensorsError::HeaderLength(len));
    }
    Ok(len)
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderFields;

        impl<'de> Visitor<'de> for HeaderFields {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: BTreeMap::new(), tensors: Vec::new() };
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        header.tensors.push((key, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderFields)
    }
}

/// Parses a header from the start of a file: the 8 bytes of length and the JSON. Bytes after the JSON are ignored.
pub fn parse_header(prefix: &[u8]) -> Result<TensorHeader, SafetensorsError> {
    let (first, rest) = prefix.split_first_chunk::<8>().ok_or(SafetensorsError::Truncated)?;
    let len = header_len(*first, u64::MAX)?;
    let json = rest.get(..len as usize).ok_or(SafetensorsError::Truncated)?;
    if json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MAX_VALUES {
        return Err(SafetensorsError::TooManyValues);
    }
    let raw: RawHeader =
        serde_json::from_slice(json).map_err(|error| SafetensorsError::Json(error.to_string()))?;
    let shown = |name: &str| name.chars().take(120).collect::<String>();
    let mut names = HashSet::with_capacity(raw.tensors.len());
    if let Some((name, _)) = raw.tensors.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(SafetensorsError::Duplicate(shown(name)));
    }
    drop(names);
    let mut tensors = raw.tensors;
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let end = LENGTH_LEN + len;
    let mut at = 0;
    let mut checked = Vec::with_capacity(tensors.len());
    for (name, RawTensor { dtype, shape, data_offsets: (start, stop) }) in tensors {
        if start != at || stop < start || stop.checked_add(end).is_none() {
            return Err(SafetensorsError::Offsets(shown(&name)));
        }
        at = stop;
        if let Some(bits) = bits(&dtype) {
            let expected = shape.iter().try_fold(bits, |product, &n| product.checked_mul(n));
            if expected.is_none() || expected != (stop - start).checked_mul(8) {
                return Err(SafetensorsError::Size(shown(&name)));
            }
        }
        checked.push(Tensor { name, dtype, shape, range: end + start..end + stop });
    }
    Ok(TensorHeader { end, tensors: checked, metadata: raw.metadata })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(json: &str) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    }

    #[test]
    fn headers_are_read() {
        let bytes = file(
            r#"{"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},"__metadata__":{"format":"pt"},
                "a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"s":{"dtype":"F32","shape":[],"data_offsets":[28,32]},
                "e":{"dtype":"I64","shape":[0,9],"data_offsets":[32,32]}, "f4":{"dtype":"F4","shape":[4],"data_offsets":[32,34]}}  "#,
        );
        let header = parse_header(&bytes).unwrap();
        let end = bytes.len() as u64;
        assert_eq!(header.end, end);
        assert_eq!(header.metadata["format"], "pt");
        let names: Vec<&str> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "s", "e", "f4"]);
        assert_eq!(header.tensors[1].range, end + 4..end + 28);
        assert_eq!(
            header.elements_by_dtype(),
            BTreeMap::from([("BF16", 2), ("F32", 7), ("I64", 0), ("F4", 4)])
        );
        assert_eq!(parse_header(&bytes[..20]), Err(SafetensorsError::Truncated));
    }

    #[test]
    fn inconsistent_headers_are_refused() {
        use SafetensorsError::*;
        let one = |dtype: &str, shape: &str, offsets: &str| {
            parse_header(&file(&format!(
                r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#
            )))
        };
        assert!(one("F32", "[2]", "[0,8]").is_ok());
        assert!(one("FUTURE", "[2]", "[0,5]").is_ok());
        assert_eq!(one("F32", "[2]", "[0,4]"), Err(Size("t".into())));
        assert_eq!(one("F32", "[4294967296,4294967296]", "[0,0]"), Err(Size("t".into())));
        assert_eq!(one("F32", "[2]", "[8,16]"), Err(Offsets("t".into())));
        assert_eq!(one("F32", "[]", "[0,18446744073709551615]"), Err(Offsets("t".into())));
        assert!(matches!(one("F32", "[-1]", "[0,8]"), Err(Json(_))));
        assert!(matches!(one("F32", "[2]", "[0,8,9]"), Err(Json(_))));
        let two = |second: &str| {
            parse_header(&file(&format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},{second}}}"#
            )))
        };
        assert_eq!(two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#), Err(Offsets("b".into())));
        assert_eq!(two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}"#), Err(Offsets("b".into())));
        assert_eq!(two(r#""b":{"dtype":"FUT","shape":[4],"data_offsets":[4,3]}"#), Err(Offsets("b".into())));
        assert_eq!(two(r#""a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#), Err(Duplicate("a".into())));
        assert_eq!(header_len((MAX_HEADER + 1).to_le_bytes(), u64::MAX), Err(HeaderLength(MAX_HEADER + 1)));
        assert_eq!(header_len(93u64.to_le_bytes(), 100), Err(HeaderLength(93)));
        assert_eq!(header_len(92u64.to_le_bytes(), 100), Ok(92));
        assert_eq!(parse_header(&file(&format!("[{}", ",".repeat(MAX_VALUES)))), Err(TooManyValues));
        assert!(matches!(parse_header(&file(&"[".repeat(100_000))), Err(Json(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_header(&bytes);
        }

        #[test]
        fn tensors_of_accepted_headers_cover_the_data(
            parts in proptest::collection::vec((any::<bool>(), 0u64..5, 0u64..5, prop::sample::select(vec!["F32", "U8", "X"])), 0..6)
        ) {
            let mut at = 0;
            let mut json = String::from("{");
            for (i, (shift, n, m, dtype)) in parts.iter().enumerate() {
                let len = n * m * if *dtype == "F32" { 4 } else { 1 };
                let start = at + u64::from(*shift && i % 3 == 2);
                at = start + len;
                let comma = if i == 0 { "" } else { "," };
                json += &format!(r#"{comma}"{i}":{{"dtype":"{dtype}","shape":[{n},{m}],"data_offsets":[{start},{at}]}}"#);
            }
            json.push('}');
            if let Ok(header) = parse_header(&file(&json)) {
                let mut end = header.end;
                for tensor in &header.tensors {
                    prop_assert_eq!(tensor.range.start, end);
                    end = tensor.range.end;
                }
                prop_assert_eq!(header.file_len(), end);
                prop_assert_eq!(end - header.end, at);
            }
        }
    }
}
