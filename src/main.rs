//! The `silmaril` binary.

fn main() -> ! {
    silmaril::cli::main()
}
