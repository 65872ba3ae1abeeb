//! Tenants whose events cannot be matched at present: theirs are put off at once, but for one now and then that looks whether
//! it is mended.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfare_domain::TenantId;

/// How long nobody looks again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// More tenants than this are forgotten at once: each then waits its patience again.
const TENANTS: usize = 10_000;

/// What an event of a tenant is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing is known against its tenant.
    Go,
    /// Its tenant was stuck a while ago: to try once, without patience.
    Probe,
    /// Its tenant was stuck just now: not to try at all.
    Later,
}

/// The tenants that are stuck, and when to look again.
#[derive(Default)]
pub(crate) struct Stuck {
    look_at: Mutex<HashMap<TenantId, Instant>>,
}

impl Stuck {
    pub(crate) fn turn(&self, tenant: &TenantId, now: Instant) -> Turn {
        let mut look_at = self.look_at.lock().unwrap_or_else(PoisonError::into_inner);
        match look_at.get_mut(tenant) {
            None => Turn::Go,
            Some(at) if now < *at => Turn::Later,
            Some(at) => {
                *at = now + LOOK_EVERY; // one looks for all
                Turn::Probe
            }
        }
    }

    pub(crate) fn is_stuck(&self, tenant: &TenantId, now: Instant) {
        let mut look_at = self.look_at.lock().unwrap_or_else(PoisonError::into_inner);
        if look_at.len() >= TENANTS && !look_at.contains_key(tenant) {
            look_at.clear();
        }
        look_at.insert(tenant.clone(), now + LOOK_EVERY);
    }

    pub(crate) fn goes_on(&self, tenant: &TenantId) {
        let mut look_at = self.look_at.lock().unwrap_or_else(PoisonError::into_inner);
        if !look_at.is_empty() && look_at.remove(tenant).is_some() {
            tracing::info!(%tenant, "a tenant's events are matched again");
        }
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
        stuck.is_stuck(&acme, now);
        assert_eq!((stuck.turn(&acme, now), stuck.turn(&other, now)), (Turn::Later, Turn::Go));
        let later = now + LOOK_EVERY;
        assert_eq!((stuck.turn(&acme, later), stuck.turn(&acme, later)), (Turn::Probe, Turn::Later));
        stuck.goes_on(&acme);
        assert_eq!(stuck.turn(&acme, later), Turn::Go);
    }
}
