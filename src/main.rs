//! The `synod` binary: the command line, which lives in the library.

fn main() -> std::process::ExitCode {
    synod::cli::main()
}
