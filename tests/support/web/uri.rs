//! Percent-encoding of paths and queries.

use std::collections::HashMap;

use axum::extract::Request;

/// The path of a request, percent-decoded.
pub fn decoded_path(request: &Request) -> String {
    decode(request.uri().path())
}

/// The fields of a request's query, decoded.
pub fn fields(request: &Request) -> HashMap<String, String> {
    let query = request.uri().query().unwrap_or_default();
    let fields = query.split('&').filter_map(|field| field.split_once('='));
    fields.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// Percent-encodes the characters that a path or the value of a query must not contain.
pub fn encode(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    path.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Undoes percent-encoding.
pub fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|hex| hex::decode(hex).ok()).filter(|_| *first == b'%');
        rest = match escaped {
            Some(byte) => {
                bytes.extend(byte);
                &tail[2..]
            }
            None => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn encoded_text_decodes_to_the_original() {
    let path = "/org/name/a b+c%=é?.txt";
    assert_eq!(encode(path), "/org/name/a%20b%2Bc%25%3D%C3%A9%3F.txt");
    assert_eq!(decode(&encode(path)), path);
    assert_eq!(decode("100%"), "100%");
}
