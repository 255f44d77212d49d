//! Gated and private repositories are visible only to the users that the hub accepts, and never shared.

use std::fs;
use std::io::ErrorKind;

use super::rig::{listed, mount_with, reader, status};
use crate::support::hub::{Access, MEMBER, STRANGER};
use crate::support::process::{Finished, PATIENCE};

#[test]
fn gated_model_is_read_only_with_an_accepted_token() {
    let (net, host) = reader();
    net.hub.set_access("acme/m", Access::Gated);
    host.keep_daemon();
    let member = mount_with(&host, "member", Some(MEMBER), &[]);
    let refused = [
        mount_with(&host, "anonymous", None, &[]),
        mount_with(&host, "stranger", Some(STRANGER), &[]),
        mount_with(&host, "shared", Some(MEMBER), &["--allow-other"]),
    ];
    let read = |point: &std::path::Path| fs::read(point.join("acme/m/config.json"));
    assert_eq!(read(&member).unwrap(), b"{\"model_type\": \"bert\"}");
    for point in &refused {
        assert_eq!(read(point).unwrap_err().kind(), ErrorKind::PermissionDenied, "{}", point.display());
    }
    let reasons = status(&host)["unresolved"].to_string();
    assert!(reasons.contains("gated"), "{reasons}");
    let mut warm = host.silmaril(&["warm", "acme/m"]);
    Finished::of(warm.env("HF_TOKEN", MEMBER), PATIENCE).ok();
    let model = listed(&host, "acme/m");
    assert_eq!((&model["shared"], &model["withheld"]), (&false.into(), &"gated".into()), "{model:#}");
    let cdn: Vec<_> = net.hub.log().all().into_iter().filter(|asked| asked.site == "cdn").collect();
    assert!(!cdn.is_empty() && cdn.iter().all(|asked| asked.authorization.is_none()), "{cdn:#?}");
    for point in refused.iter().chain([&member]) {
        host.run(&["unmount", point.to_str().unwrap()]).ok();
    }
    host.stop_background_daemon();
}

#[test]
fn gated_model_is_denied_after_a_restart_without_the_token() {
    let (net, host) = reader();
    net.hub.set_access("acme/m", Access::Gated);
    host.keep_daemon();
    let point = mount_with(&host, "models", Some(MEMBER), &[]);
    assert!(fs::read(point.join("acme/m/config.json")).is_ok());
    host.run(&["unmount", point.to_str().unwrap()]).ok();
    host.stop_background_daemon();
    let point = mount_with(&host, "models", None, &[]);
    let denied = fs::read(point.join("acme/m/config.json")).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert!(fs::read_dir(point.join("acme")).unwrap().next().is_none(), "it is listed");
    host.run(&["unmount", point.to_str().unwrap()]).ok();
    // The token file of the user.
    let file = host.home().join(".cache/huggingface/token");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, MEMBER).unwrap();
    let point = mount_with(&host, "models", None, &[]);
    assert!(fs::read(point.join("acme/m/config.json")).is_ok());
    host.run(&["unmount", point.to_str().unwrap()]).ok();
    host.stop_background_daemon();
}

#[test]
fn private_model_does_not_exist_for_strangers() {
    let (net, host) = reader();
    net.hub.set_access("acme/m", Access::Private);
    host.keep_daemon();
    for token in [None, Some(STRANGER)] {
        let point = mount_with(&host, "models", token, &[]);
        assert_eq!(fs::metadata(point.join("acme/m")).unwrap_err().kind(), ErrorKind::NotFound);
        host.run(&["unmount", point.to_str().unwrap()]).ok();
    }
    let point = mount_with(&host, "models", Some(MEMBER), &[]);
    assert!(fs::read(point.join("acme/m/large.bin")).is_ok());
    host.run(&["unmount", point.to_str().unwrap()]).ok();
    host.stop_background_daemon();
}
