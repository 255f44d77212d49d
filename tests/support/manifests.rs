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
    sign_with(manifest, &SigningKey::from_bytes(&[secret; 32]));
}

/// Signs as the publisher of a base directory.
pub fn sign_as(manifest: &mut Value, base: &Path) {
    let pem = std::fs::read_to_string(base.join("keys/publisher.key")).unwrap();
    let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(lines).unwrap();
    // PKCS#8 of an Ed25519 key: a header of 16 bytes, then the secret.
    sign_with(manifest, &SigningKey::from_bytes(der[16..48].try_into().unwrap()));
}

fn sign_with(manifest: &mut Value, key: &SigningKey) {
    let fields = manifest.as_object_mut().unwrap();
    fields.remove("signature");
    fields.insert("publisher".into(), hex::encode(key.verifying_key().as_bytes()).into());
    let mut message = b"silmaril-manifest-v1\n".to_vec();
    message.extend(serde_json_canonicalizer::to_vec(manifest).unwrap());
    let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(&message).to_bytes());
    manifest["signature"] = signature.into();
}
