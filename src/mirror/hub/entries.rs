//! Parses and checks the responses of the hub's API.

use serde::Deserialize;

use crate::mirror::source::RemoteFile;
use crate::model::Sha256Digest;
use crate::model::license::MAX_LICENSE;
use crate::model::text::is_clean;
use crate::model::{GitOid, Identity};

/// Longest page of a list that is read, in bytes.
pub(super) const MAX_PAGE: usize = 16 << 20;

/// The response to `GET /api/models/{id}/revision/{rev}`, with the fields that are used.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub sha: String,
    /// The name that the hub uses now: `org/name`.
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub private: bool,
    #[serde(default)]
    gated: serde_json::Value,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default, rename = "cardData")]
    card: serde_json::Value,
}

impl Info {
    /// Whether users must accept conditions. The hub sends `false`, or the way of acceptance (`auto`, `manual`).
    pub fn gated(&self) -> bool {
        !matches!(self.gated, serde_json::Value::Null | serde_json::Value::Bool(false))
    }

    /// The licence of the model card, otherwise the licence of the tags.
    pub fn license(&self) -> Option<String> {
        let card = &self.card["license"];
        let card = card.as_str().or_else(|| card.get(0)?.as_str());
        let tag = || self.tags.iter().find_map(|tag| tag.strip_prefix("license:"));
        let license = card.or_else(tag)?.trim();
        let sound = !license.is_empty() && license.len() <= MAX_LICENSE && is_clean(license);
        sound.then(|| license.to_owned())
    }
}

/// One entry of the response to `GET /api/models/{id}/tree/{rev}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeEntry {
    /// A file. Its path is not checked yet.
    File(RemoteFile),
    /// A directory. The list also has its files.
    Directory,
    /// The path of an entry of another kind.
    Other(String),
}

#[derive(Deserialize)]
struct ListEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: Sha256Digest,
    size: u64,
}

/// Parses one page of a list.
pub fn parse_page(bytes: &[u8]) -> Result<Vec<TreeEntry>, serde_json::Error> {
    serde_json::from_slice::<Vec<ListEntry>>(bytes)?.into_iter().map(TreeEntry::try_from).collect()
}

/// Parses one page of a history: the identifiers of its commits.
pub(super) fn parse_history(bytes: &[u8]) -> Result<Vec<GitOid>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Commit {
        id: GitOid,
    }
    Ok(serde_json::from_slice::<Vec<Commit>>(bytes)?.into_iter().map(|commit| commit.id).collect())
}

impl TryFrom<ListEntry> for TreeEntry {
    type Error = serde_json::Error;

    fn try_from(entry: ListEntry) -> Result<Self, Self::Error> {
        match entry.kind.as_str() {
            "directory" => return Ok(Self::Directory),
            "file" => {}
            _ => return Ok(Self::Other(entry.path)),
        }
        let blob: GitOid = entry.oid.parse().map_err(serde::de::Error::custom)?;
        let (identity, size) = match entry.lfs {
            Some(lfs) => (Identity::Lfs(lfs.oid), lfs.size),
            None => (Identity::Git(blob), entry.size),
        };
        Ok(Self::File(RemoteFile { path: entry.path, size, identity, blob, executable: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

    #[test]
    fn pages_are_read() {
        let page = format!(
            r#"[{{"type":"directory","oid":"{OID}","size":0,"path":"onnx"}},
                {{"type":"file","oid":"{OID}","size":6,"path":"a.txt","xetHash":"x"}},
                {{"type":"file","oid":"{OID}","size":90,"path":"m.bin","lfs":{{"oid":"{SHA}","size":90,"pointerSize":133}}}},
                {{"type":"commit","path":"sub"}}]"#
        );
        let entries = parse_page(page.as_bytes()).unwrap();
        let file = |path: &str, size, identity| {
            let blob = OID.parse().unwrap();
            TreeEntry::File(RemoteFile { path: path.into(), size, identity, blob, executable: false })
        };
        assert_eq!(
            entries,
            [
                TreeEntry::Directory,
                file("a.txt", 6, Identity::Git(OID.parse().unwrap())),
                file("m.bin", 90, Identity::Lfs(SHA.parse().unwrap())),
                TreeEntry::Other("sub".into()),
            ]
        );
    }

    #[test]
    fn invalid_pages_are_refused() {
        for bad in [
            "{}".to_owned(),
            format!(r#"[{{"type":"file","oid":"{OID}","size":-1,"path":"a"}}]"#),
            r#"[{"type":"file","oid":"12","size":1,"path":"a"}]"#.to_owned(),
            format!(r#"[{{"type":"file","oid":"{OID}","size":1}}]"#),
            format!(r#"[{{"type":"file","oid":"{OID}","size":1,"path":"a","lfs":{{"oid":"12","size":1}}}}]"#),
        ] {
            assert!(parse_page(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn history_has_the_identifiers_of_commits() {
        let page = format!(r#"[{{"id":"{OID}","title":"x","authors":[]}},{{"id":"{OID}"}}]"#);
        assert_eq!(parse_history(page.as_bytes()).unwrap(), [OID.parse().unwrap(); 2]);
        for bad in ["{}", r#"[{"id":"main"}]"#, r#"[{}]"#] {
            assert!(parse_history(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn licence_comes_from_the_card_or_a_tag() {
        let info = |rest: &str| serde_json::from_str::<Info>(&format!(r#"{{"sha":"x"{rest}}}"#)).unwrap();
        let license = |rest: &str| info(rest).license();
        assert_eq!(
            license(r#","cardData":{"license":"mit"},"tags":["license:gpl"]"#).as_deref(),
            Some("mit")
        );
        assert_eq!(license(r#","cardData":{"license":["mit","x"]}"#).as_deref(), Some("mit"));
        assert_eq!(
            license(r#","cardData":null,"tags":["x","license:apache-2.0"]"#).as_deref(),
            Some("apache-2.0")
        );
        assert_eq!(license(r#","cardData":{"license":"a\u001b[m"}"#), None);
        assert_eq!(license(""), None);
        assert!(info(r#","gated":"auto""#).gated() && info(r#","gated":true"#).gated());
        assert!(!info(r#","gated":false"#).gated() && !info("").gated());
    }
}
