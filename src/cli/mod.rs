//! The command line: one file per subcommand. Only this module prints.

/// Runs the program and returns its exit code.
pub fn main() -> std::process::ExitCode {
    todo!()
}
