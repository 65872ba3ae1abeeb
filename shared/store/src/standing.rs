//! How everything stands, for the gauges of the one scheduler (operations.md, Metrics): each tenant's ledger and what waits
//! longest, read in bounded steps under a lease.

use std::time::Duration;

use fanfare_domain::TenantId;

use crate::redis_link::{Redis, Script, StoreError};

/// Who reads.
const LEASE: &str = "f:gauges";
/// Open events and deliveries that are looked into per tenant and reading: well under a millisecond of Redis.
const LOOKED_INTO: &str = "200";
/// Jobs that are looked into at most.
const JOBS: usize = 256;

/// A tenant, of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantStanding {
    /// Deliveries made, ever.
    pub created: i64,
    /// Deliveries that are pending.
    pub pending: i64,
    /// Held.
    pub held: i64,
    /// Delivered, ever.
    pub delivered: i64,
    /// Failed for good, ever.
    pub failed: i64,
    /// Cancelled, ever.
    pub cancelled: i64,
    /// How old the oldest event is that is accepted and not fanned out.
    pub unfanned: Duration,
    /// How long the oldest delivery is due that only Fanfare keeps waiting, among the oldest events.
    pub due: Duration,
    /// The age of the oldest that waits for its retry, among the oldest events.
    pub retry: Duration,
    /// The age of the oldest that waits for room at its webhook, among the oldest events.
    pub limit: Duration,
    /// The age of the oldest that is held.
    pub oldest_held: Duration,
}

impl TenantStanding {
    /// What was made and has no state, or the other way round: 0 in a ledger that is right.
    pub fn imbalance(&self) -> i64 {
        self.created - (self.pending + self.held + self.delivered + self.failed + self.cancelled)
    }

    /// Adds another tenant's: counts are summed, of ages the largest stays.
    pub fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.pending += other.pending;
        self.held += other.held;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.unfanned = self.unfanned.max(other.unfanned);
        self.due = self.due.max(other.due);
        self.retry = self.retry.max(other.retry);
        self.limit = self.limit.max(other.limit);
        self.oldest_held = self.oldest_held.max(other.oldest_held);
    }
}

/// Reads how everything stands.
pub struct Standing {
    redis: Redis,
    script: Script,
    default_cap: String,
    token: String,
}

impl Standing {
    /// Over `redis`: a webhook without a cap of its own has `default_cap`; `token` names this reader among all.
    pub fn new(redis: &Redis, default_cap: u32, token: String) -> Self {
        let script = Script::new(include_str!("scripts/standing.lua"));
        Self { redis: redis.clone(), script, default_cap: default_cap.to_string(), token }
    }

    /// Whether this is the reader, for `lease` from now. Two may be for a moment when a lease ends: who asks takes the larger.
    pub async fn leads(&self, lease: Duration) -> Result<bool, StoreError> {
        let ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let mut take = redis::cmd("SET");
        take.arg(LEASE).arg(&self.token).arg("NX").arg("PX").arg(ms);
        if self.redis.run::<Option<String>>(&take).await?.is_some() {
            return Ok(true);
        }
        let holder: Option<String> = self.redis.run(redis::cmd("GET").arg(LEASE)).await?;
        if holder.as_ref() != Some(&self.token) {
            return Ok(false);
        }
        self.redis.run::<u32>(redis::cmd("PEXPIRE").arg(LEASE).arg(ms)).await.map(|kept| kept == 1)
    }

    /// A tenant, now.
    pub async fn of(&self, tenant: &TenantId) -> Result<TenantStanding, StoreError> {
        let args = [LOOKED_INTO.as_bytes(), self.default_cap.as_bytes()];
        let numbers: Vec<i64> = self.redis.script(&self.script, tenant.as_str(), &args).await?;
        let [created, pending, held, delivered, failed, cancelled, ages @ ..] = numbers.as_slice() else {
            return Err(StoreError::Odd(format!("{numbers:?} as a tenant's standing")));
        };
        let age = |at: usize| Duration::from_millis(ages.get(at).map_or(0, |ms| ms.unsigned_abs()));
        Ok(TenantStanding {
            created: *created,
            pending: *pending,
            held: *held,
            delivered: *delivered,
            failed: *failed,
            cancelled: *cancelled,
            unfanned: age(0),
            due: age(1),
            retry: age(2),
            limit: age(3),
            oldest_held: age(4),
        })
    }

    /// The kinds of the open jobs, of few hundred at most.
    pub async fn open_jobs(&self) -> Result<Vec<String>, StoreError> {
        let mut kinds = Vec::new();
        for key in crate::jobs::open_keys(&self.redis, JOBS).await? {
            let kind: Option<String> = self.redis.run(redis::cmd("HGET").arg(key).arg("k")).await?;
            kinds.extend(kind);
        }
        Ok(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_right_when_every_delivery_has_one_state() {
        let right = TenantStanding {
            created: 10,
            pending: 1,
            held: 2,
            delivered: 3,
            failed: 2,
            cancelled: 2,
            ..TenantStanding::default()
        };
        assert_eq!(right.imbalance(), 0);
        assert_eq!(TenantStanding { created: 11, ..right }.imbalance(), 1);
        assert_eq!(TenantStanding { delivered: 5, ..right }.imbalance(), -2);
    }
}
