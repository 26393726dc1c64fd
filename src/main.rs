//! The `scanside` command: arguments in -> exit status out. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    scanside::cli::run()
}
