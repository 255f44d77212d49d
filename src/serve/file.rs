//! The response to a request for a file.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::HubError;
use super::body::Bodies;
use super::range::{Requested, matches_etag};
use crate::fetch::{FileRef, ReadError};
use crate::store::StoredRevision;

/// The file that a response sends.
pub struct ServedFile {
    /// The revision.
    pub revision: Arc<StoredRevision>,
    /// Index into its files.
    pub file: usize,
    /// The entity tag, in quotes.
    pub etag: String,
    /// Headers of the success responses.
    pub headers: HeaderMap,
}

/// Answers GET and HEAD of a file: the whole file, a range of it, 304 if the client has it, or 416.
pub async fn respond(
    bodies: &Arc<Bodies>,
    served: ServedFile,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, HubError> {
    let ServedFile { revision, file, etag, headers } = served;
    let text = |name: header::HeaderName| request.get(name).and_then(|value| value.to_str().ok());
    let size = revision.manifest.files[file].size;
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = headers;
    let set = |response: &mut Response, name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(&mut response, header::ETAG, etag.clone());
    set(&mut response, header::ACCEPT_RANGES, "bytes".to_owned());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| matches_etag(tags, &etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream".to_owned());
    let is_same = text(header::IF_RANGE).is_none_or(|tag| matches_etag(tag, &etag));
    let requested = Requested::of(text(header::RANGE).filter(|_| is_same), size);
    let range = match requested {
        Requested::Whole => 0..size,
        Requested::Part(range) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            set(&mut response, header::CONTENT_RANGE, value);
            range
        }
        Requested::Unsatisfiable => {
            let mut refused =
                HubError::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {size} bytes"))
                    .into_response();
            set(&mut refused, header::CONTENT_RANGE, format!("bytes */{size}"));
            return Ok(refused);
        }
    };
    set(&mut response, header::CONTENT_LENGTH, (range.end - range.start).to_string());
    if *method != Method::HEAD {
        let file = FileRef { revision: revision.clone(), file };
        let body = bodies.read(file, range).await;
        *response.body_mut() = body.map_err(|error| unavailable(&revision, &error))?;
    }
    Ok(response)
}

/// The response when the first bytes of a file cannot be read.
fn unavailable(revision: &StoredRevision, error: &ReadError) -> HubError {
    let status = match error {
        ReadError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        ReadError::Denied(_) => StatusCode::FORBIDDEN,
        ReadError::Stopped | ReadError::Left => StatusCode::SERVICE_UNAVAILABLE,
        ReadError::Disk(..) | ReadError::NoSpace | ReadError::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    HubError::new(status, format!("{}: {error}", revision.manifest.model_ref()))
}
