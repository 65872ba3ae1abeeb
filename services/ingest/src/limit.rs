//! Requests per second and key.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// More keys than this are forgotten at once: each then starts with a whole second's room.
const KEYS: usize = 10_000;

/// Lets each key make so many requests per second, and as many at once after a pause.
pub(crate) struct Limiter {
    per_second: u32,
    next: Mutex<HashMap<String, Instant>>,
}

impl Limiter {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, next: Mutex::default() }
    }

    /// Whether a request of `key` is within its rate at `now`.
    pub(crate) fn admits(&self, key: &str, now: Instant) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.len() >= KEYS && !next.contains_key(key) {
            next.clear();
        }
        let step = Duration::from_secs(1) / self.per_second.max(1);
        let at = next.get(key).copied().map_or(now, |at| at.max(now));
        if at + step > now + Duration::from_secs(1) {
            return false;
        }
        next.insert(key.to_owned(), at + step);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_rate_and_no_other_keys() {
        let limiter = Limiter::new(3);
        let start = Instant::now();
        assert_eq!((0..5).filter(|_| limiter.admits("a", start)).count(), 3);
        assert!(limiter.admits("b", start));
        assert!(limiter.admits("a", start + Duration::from_millis(400)));
        assert!(!limiter.admits("a", start + Duration::from_millis(400)));
    }
}
