//! The body of a response, read in chunks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::HttpError;
use super::limit::RateLimit;

/// A body. Dropping it ends the transfer.
#[derive(Debug)]
pub struct Body {
    response: reqwest::Response,
    /// The URL for errors, without secrets.
    url: String,
    /// Remaining bytes; none if the server has not announced the length.
    pub(super) left: Option<u64>,
    /// Longest pause of the server within the body.
    patience: Duration,
    limit: Arc<RateLimit>,
}

impl Body {
    pub(super) fn new(
        response: reqwest::Response,
        url: String,
        len: Option<u64>,
        patience: Duration,
        limit: Arc<RateLimit>,
    ) -> Self {
        Self { response, url, left: len, patience, limit }
    }

    /// The next bytes, or none at the end. Fails if the body is shorter or longer than the announced length, and if the
    /// server sends nothing for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        let next = tokio::time::timeout(self.patience, self.response.chunk()).await;
        let stalled = |_| HttpError::Stalled { url: self.url.clone(), after: self.patience };
        let next = next
            .map_err(stalled)?
            .map_err(|source| HttpError::Cut { url: self.url.clone(), source: Some(source) })?;
        let Some(bytes) = next else {
            return match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err(HttpError::Cut { url: self.url.clone(), source: None }),
            };
        };
        let len = bytes.len() as u64;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(len).ok_or_else(|| HttpError::TooLong { url: self.url.clone() })?;
        }
        self.limit.wait(len).await;
        Ok(Some(bytes))
    }

    /// Reads the whole body. More than `max` bytes are an error.
    pub async fn read(mut self, max: usize) -> Result<Vec<u8>, HttpError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > max {
                return Err(HttpError::TooLong { url: self.url });
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}
