//! Changes of inputs that keep enough of their form to pass the first checks of a decoder.

use proptest::prelude::*;
use proptest::sample::Index;

/// The longest input, in bytes.
const MAX_INPUT: usize = 128 * 1024;

/// Tokens that decoders interpret, and tokens that are dangerous for them.
const TOKENS: &[&str] = &[
    "d",
    "l",
    "e",
    "i0e",
    "i-1e",
    "0:",
    "1:a",
    "1:z0:",
    "de",
    "le",
    "4:salt",
    "1:v",
    "1:y1:m",
    "d1:xde",
    "99999999999:",
    "4294967296:",
    "i9223372036854775808e",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "1e999",
    "-0",
    "\\u0000",
    "\\ud800",
    "\u{202e}",
    "\u{1b}[31m",
    "\0",
    "/",
    "../",
    "..",
    "//",
    "@",
    "datasets/",
    "%00",
    "%2F",
    "%",
    "&",
    "=",
    "?",
    "xt=urn:btmh:1220",
    "xt=urn:btih:",
    "*",
    "[!a]",
    "{a,b}",
    "tag:",
    "size<",
    "publisher:",
    " ",
    "\n",
    "---",
    "&a",
    "*a",
    "- ",
    "!!",
    "\t",
];

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "9",
    "16384",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "9007199254740992",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "-1",
    "1e400",
    "00",
];

/// One change.
#[derive(Debug, Clone)]
pub enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Token(Index, &'static str),
    /// Replaces a number.
    Number(Index, &'static str),
    /// Copies a part to another position.
    Copy(Index, usize, Index),
    /// Inserts a part of the other input.
    Splice(Index, Index, usize),
    Cut(Index),
}

/// Any change.
pub fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), 1..40usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (at(), 1..40usize, 1..300usize).prop_map(|(at, len, times)| Mutation::Repeat(at, len, times)),
        (at(), prop::sample::select(TOKENS)).prop_map(|(at, token)| Mutation::Token(at, token)),
        (at(), prop::sample::select(NUMBERS)).prop_map(|(at, number)| Mutation::Number(at, number)),
        (at(), 1..200usize, at()).prop_map(|(from, len, to)| Mutation::Copy(from, len, to)),
        (at(), at(), 1..400usize).prop_map(|(at, from, len)| Mutation::Splice(at, from, len)),
        at().prop_map(Mutation::Cut),
    ]
}

/// A part of at most `len` bytes at a random position.
fn piece(bytes: &[u8], at: Index, len: usize) -> Vec<u8> {
    let at = at.index(bytes.len() + 1);
    bytes[at..(at + len).min(bytes.len())].to_vec()
}

fn insert(bytes: &mut Vec<u8>, at: Index, piece: &[u8]) {
    let at = at.index(bytes.len() + 1);
    bytes.splice(at..at, piece.iter().copied());
}

/// Applies a change.
pub fn apply(bytes: &mut Vec<u8>, other: &[u8], mutation: &Mutation) {
    match mutation {
        Mutation::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Mutation::Flip(at, bit) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Mutation::Set(..) | Mutation::Flip(..) => {}
        Mutation::Remove(at, len) => {
            let at = at.index(bytes.len() + 1);
            bytes.drain(at..(at + len).min(bytes.len()));
        }
        Mutation::Repeat(at, len, times) => {
            let piece = piece(bytes, *at, *len).repeat(*times);
            insert(bytes, *at, &piece);
        }
        Mutation::Token(at, token) => insert(bytes, *at, token.as_bytes()),
        Mutation::Number(at, number) => {
            let digits: Vec<usize> = (0..bytes.len())
                .filter(|&i| bytes[i].is_ascii_digit() && (i == 0 || !bytes[i - 1].is_ascii_digit()))
                .collect();
            if !digits.is_empty() {
                let start = digits[at.index(digits.len())];
                let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(start..start + len, number.bytes());
            }
        }
        Mutation::Copy(from, len, to) => {
            let piece = piece(bytes, *from, *len);
            insert(bytes, *to, &piece);
        }
        Mutation::Splice(at, from, len) => insert(bytes, *at, &piece(other, *from, *len)),
        Mutation::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
    }
    bytes.truncate(MAX_INPUT);
}
