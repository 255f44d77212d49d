//! A reader whose seeder is killed and started again connects to it again.

use std::time::{Duration, Instant};

use crate::support::fixtures::{dd_command, model_dir, noise};
use crate::support::net::Net;
use crate::support::process::{Proc, until_blocked};
use crate::support::share::{import, share};

const NAME: &str = "org/model";
const ROUNDS: usize = 12;
const SIZE: usize = 256 << 10;

/// Much longer than a reader needs, and much shorter than the minutes that a reader without a seeder would need.
const RETURNED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn reads_continue_after_each_restart_of_the_seeder() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let files: Vec<(String, Vec<u8>)> =
        (0..=ROUNDS).map(|number| (format!("f{number:02}.bin"), noise(number as u64, SIZE))).collect();
    let contents: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let dir = model_dir(&net.dir().join("m"), &contents);
    let mut shared = share(&a, &dir, NAME, &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    assert_eq!(std::fs::read(mounted.path(NAME).join(&files[0].0)).unwrap(), files[0].1);

    let mut took = Vec::new();
    for (number, (name, bytes)) in files.iter().enumerate().skip(1) {
        let file = mounted.path(NAME).join(name);
        a.kill_node();
        // In every second round the read begins before the seeder returns, in the other rounds after it.
        let waits = || Proc::spawn(&mut dd_command(&file, SIZE, 0, 1));
        let early = (number % 2 == 0).then(waits);
        if let Some(reader) = &early {
            until_blocked(reader);
        }
        shared = share(&a, &dir, NAME, &[]);
        let start = Instant::now();
        let reader = early.unwrap_or_else(waits);
        assert!(reader.finish(RETURNED_WITHIN).status.success());
        took.push(start.elapsed().as_millis());
        assert_eq!(std::fs::read(&file).unwrap(), *bytes);
    }
    println!("milliseconds from the restart to the bytes: {took:?}");
    drop(shared);
}
