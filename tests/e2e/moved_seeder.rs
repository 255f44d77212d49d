//! A reader whose seeder moves to another address continues to read from it.

use std::time::Duration;

use crate::support::fixtures::{dd_command, model_dir, noise};
use crate::support::net::{Net, sh};
use crate::support::process::{PATIENCE, Proc};
use crate::support::share::share;

const NAME: &str = "org/model";
const SIZE: usize = 256 << 10;

/// Less than the minute after which a connection to a lost address ends by itself.
const RETURNED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn reads_continue_when_the_seeder_changes_its_address() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let (first, second) = (noise(1, SIZE), noise(2, SIZE));
    let dir = model_dir(&net.dir().join("m"), &[("first.bin", &first), ("second.bin", &second)]);
    let _shared = share(&a, &dir, NAME, &[]);
    let mounted = b.mount(&[]);
    let file = mounted.path(NAME).join("first.bin");
    let reader = Proc::spawn(&mut dd_command(&file, SIZE, 0, 1));
    assert!(reader.finish(PATIENCE).status.success());
    // The connections stay open: no event reports that the old address is gone.
    let (host, old) = (a.namespace(), a.addr());
    sh(&format!(
        "ip -n {host} addr del {old}/24 dev eth0 && ip -n {host} addr add 10.77.0.200/24 dev eth0 && \
         ip -n {host} route replace 224.0.0.0/4 dev eth0"
    ));
    let file = mounted.path(NAME).join("second.bin");
    let reader = Proc::spawn(&mut dd_command(&file, SIZE, 0, 1));
    assert!(reader.finish(RETURNED_WITHIN).status.success());
    assert_eq!(std::fs::read(&file).unwrap(), second);
}
