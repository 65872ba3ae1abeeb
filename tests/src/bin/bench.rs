//! fanfare-bench: what the release binaries take, beside the floor; `--help` says how.
use std::process::ExitCode;

/// The services' own, so that the floor has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match fanfare_tests::bench::run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare-bench: {error:#}"); // without the backtrace that RUST_BACKTRACE would have
            ExitCode::FAILURE
        }
    }
}
