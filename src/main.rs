//! The `jan-server` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    jan_server::cli::main()
}
