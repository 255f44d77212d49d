//! What `make demo` shows, from the first command to the last.

use std::process::Command;

use crate::support::fixtures;
use crate::support::process::{Finished, PATIENCE};

#[test]
fn demo_ends_with_three_hosts_that_read_the_same_bytes() {
    fixtures::minilm();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo/demo.sh");
    let program = env!("CARGO_BIN_EXE_silmaril");
    let shown = Finished::of(Command::new(script).arg(program), PATIENCE).ok();
    assert!(shown.contains("All three hosts read the same bytes."), "{shown}");
}
