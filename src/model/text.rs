//! Text for people: removal of unsafe characters from untrusted names, and parsing and formatting of sizes and times.

use std::fmt::Write as _;
use std::time::Duration;

/// The reason why a string is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional unit.
    #[error("{0:?} is not a size; write bytes or a unit, such as 4194304, 4MiB or 4MB")]
    Syntax(String),
    /// More than 2^64 - 1 bytes.
    #[error("{0:?} is too large for a size")]
    TooLarge(String),
}

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time; write seconds or a unit, such as 15, 15s or 2min")]
pub struct TimeError(String);

/// Whether a terminal could show the character misleadingly: control, line separator, bidirectional override, zero-width
/// or tag.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FEFF}'
            | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// Whether the character changes the direction of the text that follows, so that one name can look like another.
pub fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Whether [`clean`] would remove nothing.
pub fn is_clean(text: &str) -> bool {
    !text.chars().any(is_unsafe)
}

/// Returns the text without control, bidirectional and zero-width characters, so that an untrusted name can neither move
/// the cursor nor look like another name.
pub fn clean(text: &str) -> String {
    text.chars().filter(|&c| !is_unsafe(c)).collect()
}

/// [`clean`] for a text of several lines.
pub fn clean_lines(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || !is_unsafe(c)).collect()
}

/// [`clean_lines`] for a log, whose escape sequences are written by this program.
pub fn clean_log(text: &str) -> String {
    text.chars().filter(|&c| matches!(c, '\n' | '\u{1b}') || !is_unsafe(c)).collect()
}

/// Escapes the characters of a JSON text that [`clean`] would remove. The JSON value does not change.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        // A line end in JSON text is layout; inside a string it is already escaped.
        if c == '\n' || !is_unsafe(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// Joins names for a message: the first five, and the number of the rest.
pub fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

/// Decodes percent-encoding (RFC 3986, 2.1); none if an escape is broken or the bytes are not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let mut byte = [0];
            hex::decode_to_slice(rest.get(..2)?, &mut byte).ok()?;
            bytes.push(byte[0]);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Reads a size in bytes: `4194304`, `4MiB` (binary), `4MB` (decimal), `4M` (binary, as in `dd` and `du`). Accepts
/// fractions and any case.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let syntax = || SizeError::Syntax(text.chars().take(40).collect());
    let text_trimmed = text.trim();
    let split = text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(split);
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return Err(syntax()),
    };
    let too_large = || SizeError::TooLarge(text.chars().take(40).collect());
    if let Some((whole, fraction)) = number.split_once('.') {
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(syntax());
        }
        let bytes = number.parse::<f64>().map_err(|_| syntax())? * unit as f64;
        return if bytes < u64::MAX as f64 { Ok(bytes.round() as u64) } else { Err(too_large()) };
    }
    if number.is_empty() {
        return Err(syntax());
    }
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(too_large)
}

/// Reads a duration: a bare number is seconds, with or without a fraction; otherwise numbers with units, such as `10m` or
/// `1h 30m`. The caller must check the range, including zero.
pub fn parse_time(text: &str) -> Result<Duration, TimeError> {
    let text = text.trim();
    let bad = || TimeError(text.chars().take(40).collect());
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let seconds = text.parse().map_err(|_| bad())?;
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    humantime::parse_duration(text).map_err(|_| bad())
}

/// Formats a number of bytes with three significant digits: `999 B`, `1.50 KiB`, `86.7 MiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // From 1023.5 on a value would be rounded to 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    let mut out = String::new();
    let _ = write!(out, "{value:.decimals$} {}", UNITS[unit]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_time_is_in_seconds() {
        for (text, milliseconds) in [
            ("2", 2000),
            (" 15 ", 15_000),
            ("0.5", 500),
            ("0", 0),
            ("2s", 2000),
            ("1h 30m", 5_400_000),
            ("10ms", 10),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", ".", "1.2.3", "-1", "-1s", "soon", "2 parsecs", "1e9", &"9".repeat(400)] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_notation() {
        for (text, bytes) in [
            ("4194304", 4 << 20),
            ("4MiB", 4 << 20),
            ("4 mib", 4 << 20),
            ("4M", 4 << 20),
            ("4MB", 4_000_000),
            ("1.5GiB", 3 << 29),
            ("0", 0),
            ("16k", 16384),
            ("7 B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in ["", "MiB", "4XB", "-4", "4.", ".5M", "1.2.3", "4 MiB extra", "0x10", "1e6"] {
            assert!(matches!(parse_size(text), Err(SizeError::Syntax(_))), "{text}");
        }
        for text in ["18446744073709551616", "20000000PiB", "99999999999.5PiB"] {
            assert!(matches!(parse_size(text), Err(SizeError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (90_868_376, "86.7 MiB"),
            (1 << 20, "1.00 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["a"; 7]), "a, a, a, a, a and 2 more");
    }

    #[test]
    fn percent_escapes_are_decoded() {
        assert_eq!(percent_decode("a%20b+%e6%A8%a1%2F").as_deref(), Some("a b+模/"));
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(percent_decode(broken), None, "{broken}");
        }
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"a\u{202e}": ["\u{1b}[31m", "\u{9b}2J", "\u{7f}\u{200b}\n", "\u{e0041}", "模型 🚀"]});
        for json in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            let escaped = escape_json(&json);
            assert!(clean_lines(&escaped) == escaped && escaped.contains("模型 🚀"), "{escaped}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
    }

    #[test]
    fn unsafe_characters_are_removed() {
        assert_eq!(clean("a\u{1b}[31mb\u{202e}c\u{200b}d\u{9b}e\nf"), "a[31mbcdef");
        assert_eq!(clean("Größe – 模型 🚀"), "Größe – 模型 🚀");
    }
}
