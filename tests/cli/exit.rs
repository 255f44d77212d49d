//! The end of the process.

use super::program::Home;
use crate::support::process::{Finished, PATIENCE};

/// OpenSSL's exit handler and ending threads free the same memory: one `mirror` in a thousand was aborted after its last
/// output.
#[test]
fn exit_handlers_of_libraries_do_not_run() {
    let home = Home::new();
    home.run(&["init"]).ok();
    for (args, code) in [(&["list"][..], 0), (&["--version"], 0), (&["status"], 1), (&["list", "--wrong"], 2)]
    {
        let end = Finished::of(home.command(args).env("LD_DEBUG", "files"), PATIENCE);
        assert_eq!(end.status.code(), Some(code), "{}", end.stderr);
        let libraries = |what| end.stderr.lines().filter(|line| line.contains(what)).count();
        assert!(libraries("calling init: ") > 0, "the linker logs nothing");
        assert_eq!(libraries("calling fini: "), 0, "{args:?}");
    }
}
