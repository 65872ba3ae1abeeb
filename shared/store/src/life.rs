//! Which dispatchers live. Each gives a sign of life every second; what a dead one had claimed need not wait for its lease's
//! end, which is an attempt's whole timeout away.
//!
//! Nobody is held dead by one who may have missed the others' signs: after its own start, and after every sign that
//! did not get through, a dispatcher listens for a while before it judges.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::redis_link::{Redis, StoreError};

/// Between two signs of life.
const EVERY: Duration = Duration::from_secs(1);
/// Who has given no sign for so long is dead, by Redis's clock.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// Who has got no sign through for so long, by its own clock, may be held dead soon: it sends nothing any more.
const SILENT_AFTER: Duration = Duration::from_secs(4);
/// How long one listens before it holds others dead: all who live have given a sign meanwhile.
const LISTEN: Duration = Duration::from_secs(6);
/// All dispatchers, each at its last sign of life.
const KEY: &str = "f:dispatchers";

/// This dispatcher's life, and what it knows of the others'.
#[derive(Clone)]
pub struct Life {
    name: Arc<str>,
    claims: Arc<AtomicU64>,
    heard: Arc<RwLock<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// When the last sign that got through was begun.
    last: Option<Instant>,
    /// Since when all got through.
    since: Option<Instant>,
    living: Vec<String>,
}

impl Heard {
    /// A sign got through that was begun at `begun`, and these live.
    fn sign(&mut self, begun: Instant, living: Vec<String>) {
        let broken = self.last.is_none_or(|last| begun.saturating_duration_since(last) >= SILENT_AFTER);
        self.since = self.since.filter(|_| !broken).or(Some(begun));
        self.last = Some(begun);
        self.living = living;
    }

    /// Whether this dispatcher may send: nobody holds it dead.
    fn may_send(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < SILENT_AFTER)
    }

    /// Whether those who are not heard of are dead.
    fn may_judge(&self, now: Instant) -> bool {
        self.may_send(now) && self.since.is_some_and(|since| now.saturating_duration_since(since) >= LISTEN)
    }
}

impl Life {
    /// Gives the first sign, and then one ever so often until `stop`; `None` where it comes before the first got through.
    pub async fn begin(redis: &Redis, stop: CancellationToken) -> Option<Self> {
        let life = Self {
            name: format!("{:016x}", rand::random::<u64>()).into(),
            claims: Arc::default(),
            heard: Arc::default(),
        };
        while let Err(error) = life.sign(redis).await {
            tracing::warn!(%error, "no sign of life gets through");
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        let (kept, redis) = (life.clone(), redis.clone());
        // Ends with the process: what is under way after `stop` is still this dispatcher's.
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Err(error) = kept.sign(&redis).await {
                    tracing::warn!(%error, "no sign of life gets through");
                }
            }
        });
        Some(life)
    }

    async fn sign(&self, redis: &Redis) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut beat = redis::cmd("EVAL");
        beat.arg(include_str!("scripts/beat.lua"))
            .arg(1)
            .arg(KEY)
            .arg(&*self.name)
            .arg(DEAD_AFTER.as_millis().to_string());
        let living: Vec<String> = redis.run(&beat).await?;
        self.heard.write().unwrap_or_else(PoisonError::into_inner).sign(begun, living);
        Ok(())
    }

    /// Names a claim: unlike any other, and whose it is.
    pub fn token(&self) -> String {
        format!("{}.{:x}", self.name, self.claims.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether an attempt may begin: nobody holds this dispatcher dead.
    pub fn may_send(&self) -> bool {
        self.heard.read().unwrap_or_else(PoisonError::into_inner).may_send(Instant::now())
    }

    /// The names of those that live, blanks around each; `*` where nobody is to be held dead.
    pub(crate) fn living(&self) -> String {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        if heard.may_judge(Instant::now()) { format!(" {} ", heard.living.join(" ")) } else { "*".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_judges_who_may_have_missed_a_sign() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut heard = Heard::default();
        assert!(!heard.may_send(at(0)) && !heard.may_judge(at(0)), "before the first sign");
        for secs in 0..=6 {
            heard.sign(at(secs), Vec::new());
        }
        assert!(!heard.may_judge(at(5)) && heard.may_judge(at(6)));
        assert!(heard.may_send(at(9)) && !heard.may_send(at(10)), "silent for as long as others take to hold it dead");
        assert!(!heard.may_judge(at(10)));
        // Signs get through again: the others' may have been missed for just as long.
        heard.sign(at(12), Vec::new());
        assert!(heard.may_send(at(12)) && !heard.may_judge(at(12)));
        for secs in 13..=18 {
            heard.sign(at(secs), Vec::new());
        }
        assert!(heard.may_judge(at(18)));
        assert!(SILENT_AFTER < DEAD_AFTER && DEAD_AFTER < LISTEN);
    }
}
