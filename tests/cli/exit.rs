//! How the program ends.

use super::program::Home;
use crate::support::process::{Finished, PATIENCE};

/// OpenSSL's exit handler frees what threads that end at the same time free, too: one `mirror` in a thousand was aborted
/// after its last word.
#[test]
fn no_exit_handler_of_a_library_runs_beside_threads_that_end() {
    let home = Home::new();
    home.run(&["init"]).ok();
    for (args, code) in [(&["list"][..], 0), (&["--version"], 0), (&["status"], 1), (&["list", "--wrong"], 2)]
    {
        let end = Finished::of(home.command(args).env("LD_DEBUG", "files"), PATIENCE);
        assert_eq!(end.status.code(), Some(code), "{}", end.stderr);
        let libraries = |what| end.stderr.lines().filter(|line| line.contains(what)).count();
        assert!(libraries("calling init: ") > 0, "the linker tells nothing");
        assert_eq!(libraries("calling fini: "), 0, "{args:?}");
    }
}
