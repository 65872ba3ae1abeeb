//! Places where a test can stop a process dead, to see that nothing is lost: only in debug builds.

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

/// The place and how many times it is passed before the process stops, from `FANFARE_FAIL_POINT=<name>[:<times>]`.
static SET: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
    let text = std::env::var("FANFARE_FAIL_POINT").ok()?;
    let (name, times) =
        text.rsplit_once(':').map_or((text.as_str(), 1), |(name, times)| (name, times.parse().unwrap_or(1)));
    Some((name.to_owned(), AtomicU32::new(times)))
});

/// Stops the process as `kill -9` would, where a test has asked for it here (ARCHITECTURE.md lists the names).
pub fn fail_point(name: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    if let Some((place, left)) = &*SET
        && place == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}
