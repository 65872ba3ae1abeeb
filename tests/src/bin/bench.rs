//! fanfare-bench: what the release binaries take, beside the floor; `--help` says how.
fn main() -> anyhow::Result<()> {
    fanfare_tests::bench::run(std::env::args().skip(1))
}
