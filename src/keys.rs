//! The publisher's Ed25519 key: PKCS#8 PEM, mode 0600.
