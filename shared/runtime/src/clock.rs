//! The clock, for what is recorded and shown. Leases go by Redis's own, durations by a monotonic one.

/// The time, in unix milliseconds.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
