//! Access tokens. They are never printed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An access token. `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

/// The error for a text that cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is empty or white space.
    #[error("the token is empty")]
    Empty,
    /// The text has a character that is not printable ASCII.
    #[error("the token has characters that a token cannot have")]
    Characters,
}

impl Token {
    /// Makes a token of a text, without white space at its ends.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        match text {
            "" => Err(TokenError::Empty),
            _ if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => Err(TokenError::Characters),
        }
    }

    /// The token in plain text.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        Self::new(&text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_a_header_cannot_have_are_refused() {
        assert_eq!(Token::new(" "), Err(TokenError::Empty));
        for bad in ["a b", "a\nb", "ä"] {
            assert_eq!(Token::new(bad), Err(TokenError::Characters));
        }
        assert!(serde_json::from_str::<Token>("\"a\\r\\nX: y\"").is_err());
    }
}
