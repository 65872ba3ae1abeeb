//! Tenants of whom a newer configuration is known than Redis has: it has lost its last writes, or was put back from a copy.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfare_domain::TenantId;
use tokio::time::Instant;

use crate::redis_link::{Redis, Script, StoreError};

/// Not seen for so long, it may have been another that passed: those that are known are looked at every two seconds.
const BEHIND_UNSEEN: Duration = Duration::from_secs(60);
/// How far a version is raised that has gone back: beyond all that anybody may know.
const VERSIONS_LOST: u64 = 1_000;

/// What is known of tenants, and Redis lacks. At first that may pass: the old primary of a fail-over still answers.
pub(crate) struct Behind {
    /// After so long it has lost that.
    for_good_after: Duration,
    raise: Script,
    seen: Mutex<HashMap<TenantId, Lacked>>,
    /// Whether there are any: asked for every event.
    some: AtomicBool,
}

struct Lacked {
    version: u64,
    first: Instant,
    last: Instant,
}

impl Behind {
    /// What Redis lacks for `for_good_after` is lost.
    pub(crate) fn new(for_good_after: Duration) -> Self {
        let raise = Script::new(include_str!("scripts/raise_version.lua"));
        Self { for_good_after, raise, seen: Mutex::default(), some: AtomicBool::new(false) }
    }

    /// Notes that Redis lacks this version now; whether it has for long enough.
    pub(crate) fn is_for_good(&self, id: &TenantId, version: u64, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lacked = seen.entry(id.clone()).or_insert(Lacked { version, first: now, last: now });
        if now.duration_since(lacked.last) > BEHIND_UNSEEN {
            lacked.first = now; // nobody knows what was in between
        }
        lacked.last = now;
        lacked.version = lacked.version.max(version);
        self.some.store(true, Ordering::Relaxed);
        now.duration_since(lacked.first) >= self.for_good_after
    }

    /// Redis has this version.
    pub(crate) fn has(&self, id: &TenantId, version: u64) {
        if self.some.load(Ordering::Relaxed) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.get(id).is_some_and(|lacked| version >= lacked.version) {
                seen.remove(id);
            }
            self.some.store(!seen.is_empty(), Ordering::Relaxed);
        }
    }

    /// All of Redis is lost: that is another matter.
    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.some.store(false, Ordering::Relaxed);
    }

    pub(crate) fn lacks(&self, id: &TenantId) -> bool {
        self.some.load(Ordering::Relaxed) && self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    pub(crate) fn all(&self) -> Vec<(TenantId, u64)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(id, lacked)| (id.clone(), lacked.version)).collect()
    }

    /// What Redis has of a tenant is all there is: raises its version beyond what anybody may know, so that all read it.
    pub(crate) async fn raise(&self, redis: &Redis, id: &TenantId, lacked: u64) -> Result<(), StoreError> {
        tracing::error!(
            tenant = %id,
            lacked,
            "Redis has lost the tenant's newest configuration: going on with the one it has; changes made last must be made again"
        );
        let raised = (lacked + VERSIONS_LOST).to_string();
        let args = [lacked.to_string(), raised];
        redis.script::<u64>(&self.raise, id.as_str(), &[args[0].as_bytes(), args[1].as_bytes()]).await?;
        redis.replicated(id.as_str()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_lacks_is_lost_once_it_was_lacking_for_long() {
        let (acme, other): (TenantId, TenantId) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let behind = Behind::new(Duration::from_secs(100));
        assert!(!behind.is_for_good(&acme, 7, at(0)) && behind.lacks(&acme) && !behind.lacks(&other));
        assert!(!behind.is_for_good(&acme, 5, at(50)) && !behind.is_for_good(&other, 1, at(50)));
        behind.has(&acme, 6);
        assert!(behind.lacks(&acme), "it lacks the seventh");
        assert!(behind.is_for_good(&acme, 7, at(100)) && !behind.is_for_good(&other, 1, at(100)));
        behind.has(&acme, 7);
        assert!(!behind.lacks(&acme) && !behind.is_for_good(&acme, 8, at(101)), "it is another time");
        assert!(!behind.is_for_good(&other, 1, at(161)), "what was in between, nobody knows");
        behind.forget();
        assert!(!behind.lacks(&other) && behind.all().is_empty());
    }
}
