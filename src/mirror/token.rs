//! Finds the token for the hub in the same places as `huggingface_hub`.
//!
//! `HF_TOKEN` and `HUGGING_FACE_HUB_TOKEN` are tried first, then one file: `HF_TOKEN_PATH`, otherwise `token` in `HF_HOME`,
//! whose default is `huggingface` in `XDG_CACHE_HOME`, otherwise in `~/.cache`. `HF_HUB_DISABLE_IMPLICIT_TOKEN` disables
//! all of them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::fsutil;
use crate::http::{Token, TokenError};

/// Longest token file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// A token exists but cannot be used. The messages never contain it.
#[derive(Debug, thiserror::Error)]
pub enum FindTokenError {
    /// The value of a variable is not a token.
    #[error("{variable}: {source}")]
    Variable {
        /// The name of the variable.
        variable: &'static str,
        /// The reason.
        source: TokenError,
    },
    /// The content of the file is not a token.
    #[error("{}: {source}", path.display())]
    File {
        /// The token file.
        path: PathBuf,
        /// The reason.
        source: TokenError,
    },
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The token file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// Finds the token with the environment of this process.
pub fn find() -> Result<Option<Token>, FindTokenError> {
    find_by(|name| std::env::var_os(name))
}

/// Finds the token with the environment that `variable` returns.
pub fn find_by(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Token>, FindTokenError> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let disabled = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| {
        matches!(value.to_string_lossy().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
    });
    if disabled {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        match variable(name).map(|value| Token::new(&value.to_string_lossy())) {
            Some(Ok(token)) => return Ok(Some(token)),
            Some(Err(TokenError::Empty)) | None => {}
            Some(Err(source)) => return Err(FindTokenError::Variable { variable: name, source }),
        }
    }
    let home = variable("HOME").map(PathBuf::from);
    let path = |name: &str| variable(name).map(|value| expand(PathBuf::from(value), home.as_deref()));
    let cache = || path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
    let hub = || path("HF_HOME").or_else(|| Some(cache()?.join("huggingface")));
    match path("HF_TOKEN_PATH").or_else(|| Some(hub()?.join("token"))) {
        Some(path) => read(path),
        None => Ok(None),
    }
}

fn expand(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn read(path: PathBuf) -> Result<Option<Token>, FindTokenError> {
    let bytes = match fsutil::read_capped(&path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(FindTokenError::Io { path, source }),
    };
    match Token::new(&String::from_utf8_lossy(&bytes)) {
        Ok(token) => Ok(Some(token)),
        Err(TokenError::Empty) => Ok(None),
        Err(source) => Err(FindTokenError::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;

    fn found(variables: &[(&str, &str)]) -> Option<String> {
        with(variables).unwrap().map(|token| token.secret().to_owned())
    }

    fn with(variables: &[(&str, &str)]) -> Result<Option<Token>, FindTokenError> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        find_by(|name| variables.get(name).map(OsString::from))
    }

    #[test]
    fn tokens_are_found_in_the_order_of_the_hubs_own_client() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str, token: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, token).unwrap();
        };
        at("home/.cache/huggingface/token", "hf_home\n");
        at("xdg/huggingface/token", "hf_xdg\n");
        at("home/hub/token", " hf_hub ");
        at("file", "hf_file");
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (home, xdg, file) = (path("home"), path("xdg"), path("file"));
        let mut variables = vec![("HOME", home.as_str())];
        assert_eq!(found(&variables).as_deref(), Some("hf_home"));
        for (name, value, expected) in [
            ("XDG_CACHE_HOME", xdg.as_str(), "hf_xdg"),
            ("HF_HOME", "~/hub", "hf_hub"),
            ("HF_TOKEN_PATH", &file, "hf_file"),
            ("HUGGING_FACE_HUB_TOKEN", "hf_old", "hf_old"),
            ("HF_TOKEN", "hf_env", "hf_env"),
        ] {
            variables.push((name, value));
            assert_eq!(found(&variables).as_deref(), Some(expected), "{name}");
        }
        variables.push(("HF_TOKEN", " "));
        assert_eq!(found(&variables).as_deref(), Some("hf_old"), "an empty variable is ignored");
        variables.push(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes"));
        assert_eq!(found(&variables), None);
        assert_eq!(found(&[("HF_HOME", &path("nowhere"))]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn errors_for_invalid_tokens_do_not_contain_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "hf_sec\u{1}ret").unwrap();
        let error = with(&[("HF_TOKEN_PATH", file.to_str().unwrap())]).unwrap_err().to_string();
        assert!(error.contains("/token: ") && !error.contains("ret"), "{error}");
        let error = with(&[("HF_TOKEN", "hf sec ret")]).unwrap_err().to_string();
        assert!(error.starts_with("HF_TOKEN: ") && !error.contains("sec"), "{error}");
        assert!(matches!(
            with(&[("HF_TOKEN_PATH", dir.path().to_str().unwrap())]),
            Err(FindTokenError::Io { .. })
        ));
    }
}
