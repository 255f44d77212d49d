//! Headers of `.gguf` files, read to compute the minimum length of the file. The header has metadata, then the offset,
//! type and shape of each tensor. The tensors follow the header.
//!
//! The header is untrusted. Values are skipped and not stored, and every count is bounded by the length of the file.

use std::io::{self, BufRead, Read as _};

/// The longest header, in bytes. A vocabulary of 256 000 tokens needs about ten million.
pub const MAX_HEADER: u64 = 256 << 20;
/// The most levels of arrays in arrays.
const MAX_NESTING: u32 = 4;
/// The longest name of an architecture, in bytes.
const MAX_ARCHITECTURE: u64 = 64;
/// The most dimensions of a tensor; ggml has four.
const MAX_DIMENSIONS: u32 = 8;
/// Tensors begin at a multiple of this many bytes, unless the header gives another alignment.
const ALIGNMENT: u64 = 32;
/// The key of another alignment.
const ALIGNMENT_KEY: &[u8] = b"general.alignment";

/// The reason why the length of a file cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file ends within its header.
    #[error("the header is cut off")]
    Truncated,
    /// Not a header of versions 1 to 3.
    #[error("{0}")]
    Malformed(&'static str),
    /// Longer than [`MAX_HEADER`].
    #[error("the header is longer than {} MiB", MAX_HEADER >> 20)]
    TooLong,
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The number of elements and of bytes of one block of a tensor type; none for unknown types.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        39 => (32, 17),
        _ => return None,
    })
}

/// The minimum length in bytes of a file, from its header: the end of its last tensor. The file may be longer because of
/// padding. A tensor of an unknown type counts as empty. `file` must be at its beginning.
pub fn shortest(file: impl BufRead) -> Result<u64, GgufError> {
    let mut header = HeaderReader { file, at: 0, big_endian: false, wide: true };
    header.begin()?;
    let (tensors, values) = (header.count()?, header.count()?);
    let mut alignment = ALIGNMENT;
    for _ in 0..values {
        let is_alignment = header.key()?;
        match header.u32()? {
            4 if is_alignment => alignment = header.u32()?.into(),
            kind => header.skip_value(kind, 0)?,
        }
    }
    if alignment == 0 {
        return Err(GgufError::Malformed("its alignment is zero"));
    }
    let mut end = 0u64;
    for _ in 0..tensors {
        end = end.max(header.tensor_end()?);
    }
    let overflow = GgufError::Malformed("a tensor ends beyond any file");
    match end {
        0 => Ok(header.at),
        _ => header.at.next_multiple_of(alignment).checked_add(end).ok_or(overflow),
    }
}

/// The architecture that a header names; none if it names none. `file` must be at its beginning, and may end after the
/// metadata that names it, which is the first one in files of all known writers.
pub fn architecture(file: impl BufRead) -> Result<Option<String>, GgufError> {
    const KEY: &[u8] = b"general.architecture";
    let mut header = HeaderReader { file, at: 0, big_endian: false, wide: true };
    header.begin()?;
    let (_, values) = (header.count()?, header.count()?);
    for _ in 0..values {
        let len = header.count()?;
        let is_it = if len == KEY.len() as u64 {
            header.bytes::<{ KEY.len() }>()? == *KEY
        } else {
            header.skip(len)?;
            false
        };
        match header.u32()? {
            8 if is_it => {
                let len = header.count()?;
                if len > MAX_ARCHITECTURE {
                    return Err(GgufError::Malformed("its architecture has a long name"));
                }
                let name: Vec<u8> =
                    (0..len).map(|_| header.bytes::<1>().map(|[b]| b)).collect::<Result<_, _>>()?;
                let is_plain =
                    name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
                return Ok(String::from_utf8(name).ok().filter(|_| is_plain));
            }
            kind => header.skip_value(kind, 0)?,
        }
    }
    Ok(None)
}

struct HeaderReader<R> {
    file: R,
    /// Bytes read so far.
    at: u64,
    big_endian: bool,
    /// Whether counts have 64 bits.
    wide: bool,
}

impl<R: BufRead> HeaderReader<R> {
    /// Reads the magic number and the version.
    fn begin(&mut self) -> Result<(), GgufError> {
        if self.bytes::<4>()? != *b"GGUF" {
            return Err(GgufError::Malformed("it does not begin as a GGUF file"));
        }
        let version = self.bytes::<4>()?;
        self.big_endian = version[..2] == [0, 0];
        self.wide = match self.number(version) {
            1 => false,
            2 | 3 => true,
            _ => return Err(GgufError::Malformed("it has an unknown version")),
        };
        Ok(())
    }

    fn advance(&mut self, len: u64) -> Result<(), GgufError> {
        self.at = self.at.checked_add(len).filter(|&at| at <= MAX_HEADER).ok_or(GgufError::TooLong)?;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        match self.file.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(GgufError::Truncated),
            read => Ok(read.map(|()| bytes)?),
        }
    }

    fn skip(&mut self, len: u64) -> Result<(), GgufError> {
        self.advance(len)?;
        let skipped = io::copy(&mut self.file.by_ref().take(len), &mut io::sink())?;
        if skipped == len { Ok(()) } else { Err(GgufError::Truncated) }
    }

    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        let bytes = self.bytes()?;
        Ok(self.number(bytes))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        let bytes = self.bytes()?;
        Ok(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn count(&mut self) -> Result<u64, GgufError> {
        if self.wide { self.u64() } else { Ok(self.u32()?.into()) }
    }

    fn skip_text(&mut self) -> Result<(), GgufError> {
        let len = self.count()?;
        self.skip(len)
    }

    /// Reads a key, and returns whether it is [`ALIGNMENT_KEY`].
    fn key(&mut self) -> Result<bool, GgufError> {
        let len = self.count()?;
        if len != ALIGNMENT_KEY.len() as u64 {
            return self.skip(len).map(|()| false);
        }
        Ok(self.bytes::<{ ALIGNMENT_KEY.len() }>()? == *ALIGNMENT_KEY)
    }

    fn skip_value(&mut self, kind: u32, nesting: u32) -> Result<(), GgufError> {
        match kind {
            8 => self.skip_text(),
            9 if nesting < MAX_NESTING => {
                let (kind, len) = (self.u32()?, self.count()?);
                if let Some(size) = scalar(kind) {
                    return self.skip(len.checked_mul(size).ok_or(GgufError::TooLong)?);
                }
                (0..len).try_for_each(|_| self.skip_value(kind, nesting + 1))
            }
            kind => match scalar(kind) {
                Some(size) => self.skip(size),
                None => Err(GgufError::Malformed("it has a value of an unknown type")),
            },
        }
    }

    /// Reads a tensor's entry, and returns the end of the tensor in bytes after the beginning of the first tensor.
    fn tensor_end(&mut self) -> Result<u64, GgufError> {
        self.skip_text()?;
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::Malformed("a tensor has too many dimensions"));
        }
        let mut elements = Some(1u64);
        for _ in 0..dimensions {
            let size = self.count()?;
            elements = elements.and_then(|product| product.checked_mul(size));
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let len = match block(kind) {
            None => Some(0),
            Some((per_block, bytes)) => elements.and_then(|n| n.div_ceil(per_block).checked_mul(bytes)),
        };
        len.and_then(|len| offset.checked_add(len)).ok_or(GgufError::Malformed("a tensor is too large"))
    }
}

/// Bytes of a value of a scalar type; none for text, arrays and unknown types.
fn scalar(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Builds GGUF files for tests.
#[cfg(test)]
pub(super) mod sample {
    /// A file of version 3 with some metadata and one F16 tensor for each number of elements, padded as usual.
    pub fn gguf(tensors: &[u64]) -> Vec<u8> {
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend(3u64.to_le_bytes());
        text(&mut out, "general.architecture");
        out.extend(8u32.to_le_bytes());
        text(&mut out, "llama");
        text(&mut out, "general.alignment");
        out.extend(4u32.to_le_bytes());
        out.extend(64u32.to_le_bytes());
        text(&mut out, "tokenizer.ggml.tokens");
        out.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
        out.extend(2u64.to_le_bytes());
        text(&mut out, "<s>");
        text(&mut out, "</s>");
        let mut offset = 0u64;
        for (i, n) in tensors.iter().enumerate() {
            text(&mut out, &format!("blk.{i}.weight"));
            out.extend(1u32.to_le_bytes());
            out.extend(n.to_le_bytes());
            out.extend(1u32.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (n * 2).next_multiple_of(64);
        }
        out.resize(out.len().next_multiple_of(64), 0);
        out.resize(out.len() + offset as usize, 7);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::sample::gguf;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn architecture_is_read_from_the_start_of_a_file() {
        let file = gguf(&[100]);
        assert_eq!(architecture(&file[..]).unwrap().as_deref(), Some("llama"));
        assert_eq!(architecture(&file[..80]).unwrap().as_deref(), Some("llama"));
        assert!(matches!(architecture(&file[..40]), Err(GgufError::Truncated)));
        assert!(architecture(&b"not a model"[..]).is_err());
    }

    #[test]
    fn the_shortest_length_is_the_end_of_the_last_tensor() {
        let file = gguf(&[100, 33]);
        // Two bytes per element, and the last tensor is padded to a multiple of 64.
        assert_eq!(shortest(file.as_slice()).unwrap(), file.len() as u64 - (128 - 66));
        let vocabulary = gguf(&[]);
        assert!(shortest(vocabulary.as_slice()).unwrap() <= vocabulary.len() as u64);
        // The tensors themselves are not read.
        assert!(shortest(&file[..file.len() - 200]).is_ok());
        assert!(matches!(shortest(&file[..100]), Err(GgufError::Truncated)));
        assert!(matches!(shortest(&[0; 4096][..]), Err(GgufError::Malformed(_))));
    }

    #[test]
    fn big_endian_and_version_1_are_read() {
        let mut first = b"GGUF\x01\0\0\0".to_vec();
        first.extend([1u32, 0].map(u32::to_le_bytes).concat());
        first
            .extend([1u32.to_le_bytes().as_slice(), b"t", &2u32.to_le_bytes(), &3u32.to_le_bytes()].concat());
        first.extend([256u32.to_le_bytes(), 12u32.to_le_bytes()].concat());
        first.extend(64u64.to_le_bytes());
        let end = (first.len() as u64).next_multiple_of(32);
        assert_eq!(shortest(first.as_slice()).unwrap(), end + 64 + 3 * 144);
        let mut big = b"GGUF\0\0\0\x03".to_vec();
        big.extend([1u64, 0, 1].map(u64::to_be_bytes).concat());
        big.extend([b"t".as_slice(), &1u32.to_be_bytes(), &5u64.to_be_bytes(), &0u32.to_be_bytes()].concat());
        big.extend(0u64.to_be_bytes());
        let end = (big.len() as u64).next_multiple_of(32);
        assert_eq!(shortest(big.as_slice()).unwrap(), end + 20);
    }

    #[test]
    fn huge_counts_are_refused() {
        let with = |values: u64, kind: u32, rest: &[u8]| {
            let mut file = b"GGUF\x03\0\0\0".to_vec();
            file.extend([0u64, values, 1].map(u64::to_le_bytes).concat());
            file.extend([b"k".as_slice(), &kind.to_le_bytes(), rest].concat());
            shortest(file.as_slice())
        };
        let huge = u64::MAX.to_le_bytes();
        assert!(matches!(with(1, 8, &huge), Err(GgufError::TooLong)));
        assert!(matches!(with(1, 9, &[&4u32.to_le_bytes()[..], &huge].concat()), Err(GgufError::TooLong)));
        assert!(matches!(with(1, 9, &[&8u32.to_le_bytes()[..], &huge].concat()), Err(GgufError::Truncated)));
        assert!(matches!(with(u64::MAX, 0, &[1]), Err(GgufError::Truncated)));
        let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(9);
        assert!(matches!(with(1, 9, &nested), Err(GgufError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = shortest([b"GGUF\x03\0\0\0".as_slice(), &bytes].concat().as_slice());
        }

        #[test]
        fn changed_headers_never_panic(at in 0usize..300, byte: u8) {
            let mut file = gguf(&[100, 33]);
            file[at] = byte;
            let _ = shortest(file.as_slice());
        }
    }
}
