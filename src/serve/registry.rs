//! The routes of a registry (OCI distribution), as Ollama uses them: a GGUF file of a model is a tag.
//!
//! The manifest of a tag names a small configuration, which is made here, and layers, which are files of the model. Each is
//! named by its SHA-256.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::HubError;
use super::body::Bodies;
use super::file::{self, ServedFile};
use super::find::Found;
use crate::fetch::FileRef;
use crate::model::{FileEntry, GRANULE_LEN, gguf};

/// The media type of a manifest.
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of a configuration.
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// The tag of the default file.
const LATEST: &str = "latest";
/// Quantizations in the order in which they are the default.
const PREFERRED: [&str; 6] = ["Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0", "F16"];
/// Files of a repository that are layers of every tag, with their kinds.
const EXTRA: [(&str, &str); 4] =
    [("template", "template"), ("system", "system"), ("params", "params"), ("LICENSE", "license")];

/// The response to a request for the manifest of a tag.
pub(super) async fn manifest(bodies: &Arc<Bodies>, found: &Found, tag: &str) -> Result<Response, HubError> {
    let files = &found.revision.manifest.files;
    let index = select(files, tag).ok_or_else(|| {
        let name = &found.revision.manifest.name;
        let tags = models(files).map(|(_, file)| quantization(&file.path)).collect::<Vec<_>>().join(", ");
        let tags = if tags.is_empty() { "it has no GGUF file in one part".to_owned() } else { tags };
        HubError::new(StatusCode::NOT_FOUND, format!("{name} has no tag {tag}: {tags}"))
    })?;
    let config = config(bodies, found, index).await?;
    let layer = |file: &FileEntry, kind: &str| json!({"mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": digest(file), "size": file.size});
    let mut layers = vec![layer(&files[index], "model")];
    layers.extend(
        files
            .iter()
            .filter(|f| f.sha256.is_some() && is_projector(&f.path))
            .take(1)
            .map(|f| layer(f, "projector")),
    );
    for (name, kind) in EXTRA {
        layers.extend(
            files
                .iter()
                .filter(|file| file.path == name && file.size > 0 && file.sha256.is_some())
                .map(|f| layer(f, kind)),
        );
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(&config), "size": config.len()},
        "layers": layers,
    });
    let body = manifest.to_string();
    let mut response = Response::new(Body::from(body.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MANIFEST));
    headers.extend(
        HeaderValue::from_str(&digest_of(body.as_bytes()))
            .map(|digest| (header::HeaderName::from_static("docker-content-digest"), digest)),
    );
    Ok(response)
}

/// The response to a request for a blob: a file, or a configuration.
pub(super) async fn blob(
    bodies: &Arc<Bodies>,
    found: &Found,
    wanted: &str,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, HubError> {
    let files = &found.revision.manifest.files;
    if let Some(index) = files.iter().position(|file| file.sha256.is_some() && digest(file) == wanted) {
        let etag = super::describe::etag(&found.revision, &files[index]);
        let served =
            ServedFile { revision: found.revision.clone(), file: index, etag, headers: HeaderMap::new() };
        return file::respond(bodies, served, method, request).await;
    }
    for (index, _) in models(files) {
        let config = config(bodies, found, index).await?;
        if digest_of(&config) == wanted {
            return Ok(([(header::CONTENT_TYPE, CONFIG)], config).into_response());
        }
    }
    Err(HubError::new(
        StatusCode::NOT_FOUND,
        format!("{} has no blob {wanted}", found.revision.manifest.name),
    ))
}

/// The configuration of a file, which reads the start of the file. The same on every host.
async fn config(bodies: &Bodies, found: &Found, index: usize) -> Result<Vec<u8>, HubError> {
    let file = FileRef { revision: found.revision.clone(), file: index };
    let start = bodies.start_of(&file, GRANULE_LEN).await.map_err(|error| {
        let name = &found.revision.manifest.name;
        HubError::new(StatusCode::GATEWAY_TIMEOUT, format!("{name}: the header cannot be read: {error}"))
    })?;
    let family = gguf::architecture(&start[..]).ok().flatten().unwrap_or_default();
    let entry = &found.revision.manifest.files[index];
    let config: Value = json!({
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": "",
        "file_type": quantization(&entry.path),
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(entry)]},
    });
    Ok(config.to_string().into_bytes())
}

/// The digest of a file; only for files that have a SHA-256.
fn digest(file: &FileEntry) -> String {
    let sha256 = file.sha256.map(|sha256| sha256.to_string()).unwrap_or_default();
    format!("sha256:{sha256}")
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The GGUF files that a tag can name, with their indices: in one part, and no projectors.
fn models(files: &[FileEntry]) -> impl Iterator<Item = (usize, &FileEntry)> {
    let is_model = |path: &str| {
        let is_part = path.contains("-of-0");
        path.ends_with(".gguf") && !is_part && !is_projector(path)
    };
    files.iter().enumerate().filter(move |(_, file)| file.sha256.is_some() && is_model(&file.path))
}

fn is_projector(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with(".gguf") && name.to_ascii_lowercase().starts_with("mmproj")
}

/// The part of a file's name that names its quantization: `Q4_K_M` of `m-Q4_K_M.gguf`. The whole name if there is none.
fn quantization(path: &str) -> String {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".gguf");
    let last = stem.rsplit(['-', '.']).next().unwrap_or(stem);
    let is_known = |text: &str| {
        let text = text.to_ascii_uppercase();
        let digits = text.trim_start_matches("IQ").trim_start_matches(['Q', 'F']).trim_start_matches("BF");
        digits.len() < text.len() && digits.starts_with(|c: char| c.is_ascii_digit())
    };
    if is_known(last) { last.to_ascii_uppercase() } else { stem.to_owned() }
}

/// The file of a tag: a quantization, a file name, or `latest`.
fn select(files: &[FileEntry], tag: &str) -> Option<usize> {
    let of = |wanted: &str| {
        models(files).find(|(_, file)| {
            let name = file.path.rsplit('/').next().unwrap_or(&file.path);
            quantization(&file.path).eq_ignore_ascii_case(wanted)
                || name.eq_ignore_ascii_case(wanted)
                || name.trim_end_matches(".gguf").eq_ignore_ascii_case(wanted)
        })
    };
    let found = match tag {
        LATEST => PREFERRED
            .iter()
            .find_map(|wanted| of(wanted))
            .or_else(|| models(files).min_by_key(|(_, f)| f.size)),
        tag => of(tag),
    };
    found.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sha256Digest;

    fn files(paths: &[&str]) -> Vec<FileEntry> {
        paths.iter().map(|path| FileEntry::new(*path, 9, Some(Sha256Digest([1; 32])), None)).collect()
    }

    #[test]
    fn tags_select_files() {
        let all = files(&[
            "README.md",
            "m-Q8_0.gguf",
            "m.q4_k_m.gguf",
            "mmproj-f16.gguf",
            "big-00001-of-00002.gguf",
        ]);
        assert_eq!(select(&all, "latest"), Some(2));
        assert_eq!(select(&all, "Q4_K_M"), Some(2));
        assert_eq!(select(&all, "q8_0"), Some(1));
        assert_eq!(select(&all, "m-Q8_0.gguf"), Some(1));
        assert_eq!(select(&all, "Q2_K"), None);
        assert_eq!(select(&files(&["a.safetensors"]), "latest"), None);
        assert_eq!(select(&files(&["tiny.gguf"]), "latest"), Some(0));
    }

    #[test]
    fn quantizations_are_read_from_names() {
        for (path, text) in [
            ("m-Q4_K_M.gguf", "Q4_K_M"),
            ("sub/m.q5_0.gguf", "Q5_0"),
            ("m-IQ2_XS.gguf", "IQ2_XS"),
            ("m-bf16.gguf", "BF16"),
            ("m-7b.gguf", "m-7b"),
            ("model.gguf", "model"),
        ] {
            assert_eq!(quantization(path), text, "{path}");
        }
    }
}
