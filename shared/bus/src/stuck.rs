//! Tenants whose events cannot be worked on at present: theirs are put off at once, but for one now and then that looks
//! whether it is mended.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fanfare_domain::TenantId;

/// How long nobody looks again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is said again.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// More tenants than this are forgotten at once: each then waits its patience again.
const TENANTS: usize = 10_000;

/// What an event of a tenant is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is known against its tenant.
    Go,
    /// Its tenant was stuck a while ago: to try once, without patience.
    Probe,
    /// Its tenant was stuck just now: not to try at all.
    Later,
}

/// The tenants that are stuck, and when to look again.
#[derive(Default)]
pub struct Stuck {
    known: Mutex<HashMap<TenantId, Since>>,
}

struct Since {
    look_at: Instant,
    say_at: Instant,
}

impl Stuck {
    /// What an event of this tenant is to do at `now`.
    pub fn turn(&self, tenant: &TenantId, now: Instant) -> Turn {
        match self.known().get_mut(tenant) {
            None => Turn::Go,
            Some(since) if now < since.look_at => Turn::Later,
            Some(since) => {
                since.look_at = now + LOOK_EVERY; // one looks for all
                Turn::Probe
            }
        }
    }

    /// Notes that a tenant's events cannot be worked on, and says why, now and then.
    pub fn is_stuck(&self, tenant: &TenantId, why: &str, now: Instant) {
        let mut known = self.known();
        if known.len() >= TENANTS && !known.contains_key(tenant) {
            known.clear();
        }
        let since = known.entry(tenant.clone()).or_insert(Since { look_at: now, say_at: now });
        since.look_at = now + LOOK_EVERY;
        if now >= since.say_at {
            since.say_at = now + SAY_EVERY;
            tracing::error!(%tenant, why, "a tenant's events are put off until this is mended");
        }
    }

    /// Notes that an event of this tenant could be worked on.
    pub fn goes_on(&self, tenant: &TenantId) {
        let mut known = self.known();
        if !known.is_empty() && known.remove(tenant).is_some() {
            tracing::info!(%tenant, "a tenant's events go on");
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TenantId, Since>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_looks_for_all_and_what_is_mended_goes_on() {
        let (stuck, now) = (Stuck::default(), Instant::now());
        let (acme, other): (TenantId, TenantId) = ("acme".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(stuck.turn(&acme, now), Turn::Go);
        stuck.is_stuck(&acme, "why", now);
        assert_eq!((stuck.turn(&acme, now), stuck.turn(&other, now)), (Turn::Later, Turn::Go));
        let later = now + LOOK_EVERY;
        assert_eq!((stuck.turn(&acme, later), stuck.turn(&acme, later)), (Turn::Probe, Turn::Later));
        stuck.goes_on(&acme);
        assert_eq!(stuck.turn(&acme, later), Turn::Go);
    }
}
