//! Texts of commands: names without control characters, sizes, counts and percentages.

use std::fmt::Display;

use crate::model::text;

/// Removes characters that move the cursor, hide text or change its direction. Line breaks and tabs become spaces.
pub fn clean(text: &str) -> String {
    text::clean(&text.replace(['\n', '\r', '\t'], " "))
}

/// A path or another argument in the form in which a shell reads it: in quotes if it has blanks or special characters.
pub fn shell_quoted(argument: impl Display) -> String {
    let text = argument.to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "_-./@%+=:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Formats a number of bytes: `82.9 MiB`.
pub fn size(bytes: u64) -> String {
    text::format_size(bytes)
}

/// Formats a number with a noun: `1 peer`, `2 peers`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Formats a share of a whole, rounded down so that only the whole is `100%`.
pub fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 100 } else { u128::from(part) * 100 / u128::from(whole) };
    format!("{share}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_removed() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}c\nd\u{200b}\x07"), "a[2Jbc d");
        assert_eq!(clean("Grüße 模型"), "Grüße 模型");
    }

    #[test]
    fn arguments_are_quoted_for_a_shell() {
        for (argument, quoted) in [
            ("/mnt/models", "/mnt/models"),
            ("org/name@v1.0", "org/name@v1.0"),
            ("my models", "'my models'"),
            ("it's", r"'it'\''s'"),
            ("a$b", "'a$b'"),
            ("", "''"),
        ] {
            assert_eq!(shell_quoted(argument), quoted);
            let echoed =
                std::process::Command::new("sh").args(["-c", &format!("printf %s {quoted}")]).output();
            assert_eq!(String::from_utf8(echoed.unwrap().stdout).unwrap(), argument);
        }
    }

    #[test]
    fn nouns_are_singular_for_one() {
        assert_eq!([0, 1, 2].map(|n| count(n, "peer")), ["0 peers", "1 peer", "2 peers"]);
    }

    #[test]
    fn only_the_whole_is_a_hundred_percent() {
        assert_eq!(percent(999, 1000), "99%");
        assert_eq!(percent(1000, 1000), "100%");
        assert_eq!(percent(0, 0), "100%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
    }
}
