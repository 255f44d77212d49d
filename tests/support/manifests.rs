//! Manifests as an outsider makes them: JSON edited by hand and signed by a key of their own.

use std::path::{Path, PathBuf};

use base64::Engine;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::Value;

/// Reads a manifest as JSON.
pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Writes JSON next to nothing of importance.
pub fn write(path: PathBuf, manifest: &Value) -> PathBuf {
    std::fs::write(&path, serde_json::to_vec_pretty(manifest).unwrap()).unwrap();
    path
}

/// Signs as the publisher whose secret key is 32 times `secret`: Ed25519 over the RFC 8785 form without `signature`.
pub fn sign(manifest: &mut Value, secret: u8) {
    let key = SigningKey::from_bytes(&[secret; 32]);
    let fields = manifest.as_object_mut().unwrap();
    fields.remove("signature");
    fields.insert("publisher".into(), hex::encode(key.verifying_key().as_bytes()).into());
    let mut message = b"silmaril-manifest-v1\n".to_vec();
    message.extend(serde_json_canonicalizer::to_vec(manifest).unwrap());
    let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(&message).to_bytes());
    manifest["signature"] = signature.into();
}
