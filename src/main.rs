//! The `silmaril` binary: parse, run, map the result to an exit code.

fn main() -> ! {
    silmaril::cli::main()
}
