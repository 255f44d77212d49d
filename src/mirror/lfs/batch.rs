//! Parses and checks the response of the batch API.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::http::{HeaderMap, HeaderName, HeaderValue, Url};
use crate::mirror::error::FileProblem;
use crate::model::Sha256Digest;
use crate::model::text::clean;

/// A link that expires within this time is no longer used.
const MARGIN: Duration = Duration::from_secs(5);
/// Largest number of headers of a link.
const MAX_HEADERS: usize = 32;
/// Headers that a link may not set: this program sets them, they concern the connection, or they change the meaning of the
/// request.
const REFUSED: [&str; 19] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "if-range",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// The link to an object.
#[derive(Debug, Clone)]
pub struct Link {
    /// The URL of the object.
    pub href: Url,
    /// Headers of the request. They are sent to no other origin.
    pub headers: HeaderMap,
    expires: Option<Instant>,
}

impl Link {
    /// Whether the link has not expired.
    pub fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() + MARGIN < expires)
    }
}

/// The reason why the server does not send an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectError {
    /// A status of HTTP.
    pub code: u16,
    /// The message of the server, without control characters.
    pub message: String,
}

impl ObjectError {
    /// The corresponding problem of the file.
    pub fn problem(&self) -> FileProblem {
        let text = format!("{} {}", self.code, self.message);
        match self.code {
            401 | 403 => FileProblem::LfsRefused(text),
            _ => FileProblem::Gone(text),
        }
    }
}

/// The part of the response for one object.
#[derive(Debug, Clone)]
pub struct BatchObject {
    /// The hash that identifies the object.
    pub sha256: Sha256Digest,
    /// The link to the object, or the reason why there is none.
    pub link: Result<Link, ObjectError>,
}

#[derive(Deserialize)]
struct BatchResponse {
    #[serde(default)]
    transfer: Option<String>,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: Sha256Digest,
    #[serde(default)]
    actions: Actions,
    error: Option<ObjectProblem>,
}

#[derive(Default, Deserialize)]
struct Actions {
    download: Option<DownloadAction>,
}

#[derive(Deserialize)]
struct DownloadAction {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, String>,
    expires_in: Option<i64>,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct ObjectProblem {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// Parses the response to a request made at `asked`. Links may be relative to `endpoint`, the address of the batch API.
pub fn parse_batch(
    bytes: &[u8],
    endpoint: &Url,
    asked: Instant,
) -> Result<Vec<BatchObject>, serde_json::Error> {
    use serde::de::Error as _;
    let answer: BatchResponse = serde_json::from_slice(bytes)?;
    if let Some(transfer) = answer.transfer.filter(|transfer| transfer != "basic") {
        let transfer: String = clean(&transfer).chars().take(40).collect();
        return Err(serde_json::Error::custom(format!("transfer adapter {transfer:?} was not requested")));
    }
    let objects = answer.objects.into_iter().map(|object| {
        let link = match (object.error, object.actions.download) {
            (Some(problem), _) => Err(ObjectError {
                code: problem.code,
                message: clean(&problem.message).chars().take(200).collect(),
            }),
            (None, Some(action)) => Ok(action.link(endpoint, asked).map_err(serde_json::Error::custom)?),
            (None, None) => Err(ObjectError { code: 404, message: "no link to download it".to_owned() }),
        };
        Ok(BatchObject { sha256: object.oid, link })
    });
    objects.collect()
}

impl DownloadAction {
    fn link(self, endpoint: &Url, asked: Instant) -> Result<Link, &'static str> {
        let href = endpoint.join(&self.href).map_err(|_| "an invalid address")?;
        if !matches!(href.scheme(), "http" | "https") {
            return Err("an address that is not of http or https");
        }
        if self.header.len() > MAX_HEADERS {
            return Err("a link with too many headers");
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.header {
            let name: HeaderName = name.parse().map_err(|_| "a header that cannot be sent")?;
            let mut value = HeaderValue::from_str(value).map_err(|_| "a header that cannot be sent")?;
            value.set_sensitive(true);
            if !REFUSED.contains(&name.as_str()) {
                headers.insert(name, value);
            }
        }
        let after = match (self.expires_in.filter(|&seconds| seconds != 0), &self.expires_at) {
            (Some(seconds), _) => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            // If the time is invalid, the link is used until the server refuses it.
            (None, Some(at)) => at.parse::<jiff::Timestamp>().ok().map(|at| {
                let left = at.as_second() - jiff::Timestamp::now().as_second();
                Duration::from_secs(u64::try_from(left).unwrap_or(0))
            }),
            (None, None) => None,
        };
        let expires = after.and_then(|after| asked.checked_add(after));
        Ok(Link { href, headers, expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

    fn parse(object: &str) -> Result<BatchObject, serde_json::Error> {
        let endpoint = "https://g.example/a.git/info/lfs/objects/batch".parse().unwrap();
        let json = format!(r#"{{"transfer":"basic","objects":[{{"oid":"{SHA}","size":5{object}}}]}}"#);
        parse_batch(json.as_bytes(), &endpoint, Instant::now()).map(|mut objects| objects.remove(0))
    }

    #[test]
    fn links_have_headers_and_expire() {
        let link = |more: &str| {
            parse(&format!(r#","actions":{{"download":{{"href":"https://cdn.example/x?sig=1"{more}}}}}"#))
                .unwrap()
                .link
                .unwrap()
        };
        let plain = link("");
        assert_eq!(plain.href.as_str(), "https://cdn.example/x?sig=1");
        assert!(plain.is_fresh() && plain.headers.is_empty());
        let with = link(
            r#","header":{"Authorization":"Basic c2VjcmV0","Host":"evil","range":"bytes=0-1","X-HTTP-Method-Override":"DELETE"},"expires_in":3600"#,
        );
        assert_eq!(with.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["authorization"]);
        assert!(with.is_fresh() && !format!("{with:?}").contains("c2VjcmV0"));
        assert!(!link(r#","expires_in":3"#).is_fresh() && !link(r#","expires_in":-60"#).is_fresh());
        assert!(!link(r#","expires_at":"2016-11-10T15:29:07Z""#).is_fresh());
        assert!(link(r#","expires_at":"2099-11-10T15:29:07Z""#).is_fresh());
        assert!(link(r#","expires_in":0,"expires_at":"soon""#).is_fresh());
        let relative = parse(r#","actions":{"download":{"href":"/objects/x"}}"#).unwrap().link.unwrap();
        assert_eq!(relative.href.as_str(), "https://g.example/objects/x");
    }

    #[test]
    fn errors_concern_one_object() {
        let error =
            parse(r#","error":{"code":404,"message":"Object\u001b[31m gone"}"#).unwrap().link.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (404, "Object[31m gone"));
        assert!(matches!(error.problem(), FileProblem::Gone(_)));
        let error = parse(r#","error":{"code":403,"message":"no"}"#).unwrap().link.unwrap_err();
        assert!(matches!(error.problem(), FileProblem::LfsRefused(_)));
        assert_eq!(parse("").unwrap().link.unwrap_err().code, 404);
    }

    #[test]
    fn invalid_responses_are_refused() {
        for bad in [
            r#","actions":{"download":{"href":"file:///etc/passwd"}}"#,
            r#","actions":{"download":{"href":"https://"}}"#,
            r#","actions":{"download":{"href":"https://x","header":{"a b":"c"}}}"#,
            r#","actions":{"download":{"href":"https://x","header":{"a":"c\r\nd: e"}}}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let endpoint = "https://g.example/".parse().unwrap();
        for bad in ["[]", "{}", r#"{"transfer":"ssh","objects":[]}"#, r#"{"objects":[{"oid":"12"}]}"#] {
            assert!(parse_batch(bad.as_bytes(), &endpoint, Instant::now()).is_err(), "{bad}");
        }
    }
}
