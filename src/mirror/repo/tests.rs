use super::*;
use proptest::prelude::*;

fn endpoint() -> Url {
    "https://hub.example".parse().unwrap()
}

fn parse(text: &str) -> Result<ParsedRepository, RepositoryError> {
    Repository::parse(text, &endpoint())
}

fn hub(text: &str) -> (String, Option<String>) {
    let named = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let Repository::Hub(hub) = named.repository else { panic!("{text} is not of the hub") };
    (hub.id.to_string(), named.reference.map(|r| r.to_string()))
}

#[test]
fn names_and_addresses_of_the_hub_are_equal() {
    for (text, id, reference) in [
        ("org/name", "org/name", None),
        ("org/name@v1.0", "org/name", Some("v1.0")),
        ("datasets/org/name", "datasets/org/name", None),
        ("https://hub.example/org/name", "org/name", None),
        ("https://hub.example/org/name/", "org/name", None),
        ("https://hub.example/org/name.git", "org/name", None),
        ("https://hub.example:443/datasets/org/name?x=1#y", "datasets/org/name", None),
        ("https://hub.example/org/name/tree/refs%2Fpr%2F1", "org/name", Some("refs/pr/1")),
        ("https://hub.example/org/name/blob/main/a/config.json", "org/name", Some("main")),
        ("hf://org/name", "org/name", None),
        ("hf://models/org/name@v1", "org/name", Some("v1")),
        ("hf://datasets/org/name@v1.0/a/b.parquet", "datasets/org/name", Some("v1.0")),
        ("HF://org/name@refs%2Fpr%2F1/x", "org/name", Some("refs/pr/1")),
        ("hf://org/name@refs/pr/1/x", "org/name", Some("refs/pr/1")),
        ("hf://org/name@refs/convert/parquet", "org/name", Some("refs/convert/parquet")),
    ] {
        assert_eq!(hub(text), (id.to_owned(), reference.map(str::to_owned)), "{text}");
    }
    let inside = |text| parse(text).unwrap().inside;
    for text in
        ["https://hub.example/org/name/blob/main/a/x", "hf://org/name/a/x", "hf://org/name@refs/pr/1/a/x/"]
    {
        assert_eq!(inside(text).as_deref(), Some("a/x"), "{text}");
    }
    for text in ["https://hub.example/org/name/tree/main", "hf://org/name", "hf://org/name@v1/"] {
        assert_eq!(inside(text), None, "{text}");
    }
    for text in [
        "hf://",
        "hf://gpt2",
        "hf://org/",
        "hf:///name",
        "hf://datasets/org",
        "hf://org/na me",
        "hf://org/name@",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    for text in [
        "https://hub.example/spaces/o/n",
        "https://hub.example/gpt2",
        "https://hub.example/o/n/discussions",
        "hf://spaces/o/n",
    ] {
        assert!(matches!(parse(text), Err(RepositoryError::NotOfTheHub(_))), "{text}");
    }
    let proxied: Url = "http://127.0.0.1:8080/hub/".parse().unwrap();
    let named = Repository::parse("http://127.0.0.1:8080/hub/org/name", &proxied).unwrap();
    let Repository::Hub(hub) = named.repository else { panic!() };
    assert_eq!(
        hub.api(&["tree", "main"]).as_str(),
        "http://127.0.0.1:8080/hub/api/models/org/name/tree/main"
    );
}

#[test]
fn addresses_of_files_are_escaped() {
    let Repository::Hub(hub) = parse("datasets/org/name").unwrap().repository else { panic!() };
    assert_eq!(
        hub.resolve("c0", "a b/ö?#%.txt").as_str(),
        "https://hub.example/datasets/org/name/resolve/c0/a%20b/%C3%B6%3F%23%25.txt"
    );
    assert_eq!(hub.web_seed("c0").as_str(), "https://hub.example/datasets/org/name/resolve/c0/");
    assert_eq!(hub.page().as_str(), "https://hub.example/datasets/org/name");
}

#[test]
fn other_addresses_are_fetched_by_git() {
    let named = parse("https://frodo:p%40ss@git.example/group/team/model.git").unwrap();
    let shown = format!("{named:?} {}", named.repository);
    assert!(!shown.contains("p@ss") && !shown.contains("p%40ss") && !shown.contains("frodo"), "{shown}");
    assert_eq!(named.repository.default_name().unwrap().to_string(), "team/model");
    let Repository::Git(git) = named.repository else { panic!() };
    assert_eq!(git.credential, Some(Credential { user: "frodo".into(), password: "p@ss".into() }));
    assert_eq!(git.remote.to_string(), "https://git.example/group/team/model.git");
    assert!(
        matches!(parse("https://git.example/a/b?token=secret"), Err(e @ RepositoryError::Extra(_)) if !e.to_string().contains("secret"))
    );
    // The same host, but not below the address of the hub.
    let other: Url = "http://127.0.0.1:80/hub".parse().unwrap();
    let named = Repository::parse("http://127.0.0.1/git/x.git", &other).unwrap();
    assert!(matches!(named.repository, Repository::Git(GitRepository { hub: None, .. })));
}

#[test]
fn directories_are_fetched_by_git() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("org/mo del.git");
    std::fs::create_dir_all(&path).unwrap();
    for text in
        [path.to_str().unwrap().to_owned(), format!("file://{}", path.to_str().unwrap().replace(' ', "%20"))]
    {
        let named = parse(&text).unwrap();
        let Repository::Git(git) = &named.repository else { panic!() };
        assert_eq!(git.remote, Remote::Directory(path.clone()));
        assert_eq!(named.repository.default_name(), None, "a name cannot have a space");
    }
    assert!(matches!(parse("./no/such"), Err(RepositoryError::NoDirectory(_))));
    assert!(matches!(parse("file://other-host/x"), Err(RepositoryError::Shape(_))));
}

#[test]
fn unsupported_protocols_are_refused_with_an_https_address() {
    for (text, instead) in [
        ("ssh://git@host.example:22/org/name.git", Some("https://host.example/org/name.git")),
        ("git@host.example:org/name.git", Some("https://host.example/org/name.git")),
        ("host:org/name", Some("https://host/org/name")),
        ("git://host.example/x", Some("https://host.example/x")),
        ("ftp://u:secret@host.example/x", Some("https://host.example/x")),
        ("ext::sh -c x", None),
    ] {
        let error = parse(text).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        let RepositoryError::Protocol { instead: found, .. } = error else { panic!("{text}: {error}") };
        if let Some(instead) = instead {
            assert_eq!(found.as_deref(), Some(instead), "{text}");
        }
    }
    let one_word = parse("gpt2@v1").unwrap();
    assert_eq!(one_word.repository.default_name().unwrap().to_string(), "_/gpt2");
    assert!(one_word.reference.is_some());
    for text in ["", "a/b/c/d", "org/na me", "datasets/x", ".hidden", "two words"] {
        assert!(matches!(parse(text), Err(RepositoryError::Shape(_))), "{text}");
    }
    assert!(matches!(parse("https://"), Err(RepositoryError::Address(_))));
}

#[test]
fn references_follow_the_rules_of_git() {
    for good in
        ["main", "v1.0", "refs/pr/12", "feature/x-y_z", "0123456789abcdef0123456789abcdef01234567", "a@b"]
    {
        assert!(good.parse::<Reference>().is_ok(), "{good}");
    }
    for bad in [
        "", "-x", "a..b", "a b", "a\nb", "x.lock", "/a", "a//b", "a/", ".a", "@", "a@{1}", "a:b", "a^", "*",
        "a.",
    ] {
        assert!(bad.parse::<Reference>().is_err(), "{bad}");
    }
}

#[test]
fn history_of_the_hub_is_fetched_by_git() {
    let hub = || parse("org/name").unwrap().repository;
    assert!(matches!(hub().at_depth(1), Repository::Hub(_)));
    let Repository::Git(git) = hub().at_depth(0) else { panic!() };
    assert_eq!(git.remote.to_string(), "https://hub.example/org/name");
    assert_eq!(Repository::Git(git).default_name().unwrap().to_string(), "org/name");
}

proptest! {
    #[test]
    fn any_text_can_be_parsed(text in any::<String>(), address in "https?://[a-z@:%/.?#]{0,40}") {
        let _ = (parse(&text), parse(&address));
        let _ = text.parse::<Reference>();
    }
}
