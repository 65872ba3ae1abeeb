//! A delivery in Redis: claimed before every attempt, completed after it (delivery.md, Redis, state).

use std::time::Duration;

use fanfare_domain::{DeliveryId, Span, TenantId};

use crate::{
    batched::{Args, Batched, Shape, text},
    blob,
    life::Life,
    redis_link::{Redis, Script, StoreError, prefix},
};

/// An attempt claimed this often without ever completing is poison: it takes its dispatchers down.
const MOST_CLAIMS: u32 = 20;

/// The wait of a delivery whose record only another version can read.
const ODD_RECORD: Duration = Duration::from_secs(30);

/// A delivery that wants to be attempted.
#[derive(Debug)]
pub struct ClaimRequest<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Which.
    pub id: &'a DeliveryId,
    /// The attempt to make, from 1.
    pub attempt: u32,
    /// The epoch of the message that asks.
    pub epoch: u32,
    /// What shapes its body.
    pub shape: &'a str,
    /// When its event was accepted, in unix milliseconds.
    pub accepted_ms: u64,
    /// Names this claim.
    pub token: &'a str,
}

/// A webhook's limit that keeps a delivery from being attempted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Attempts at once.
    Cap,
    /// Attempts per second.
    Rate,
    /// Its receiver's `Retry-After`.
    RetryAfter,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cap, Self::Rate, Self::RetryAfter];

    /// Its name, as the script and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Rate => "rate",
            Self::RetryAfter => "retry_after",
        }
    }
}

/// What a claim found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The attempt is ours until the lease ends.
    Go {
        /// The webhook's revision now: what is in memory must be no older.
        revision: u64,
        /// Claims of this attempt before, which were not completed: it may have been made.
        claimed_before: u32,
        /// When the delivery's first attempt was claimed, in unix milliseconds.
        first_attempt_ms: u64,
    },
    /// Not now.
    Wait {
        /// For so long.
        wait: Duration,
        /// What is in the way; nothing where another has it, or nobody can read its record.
        limit: Option<Limit>,
    },
    /// It is ahead of its message, and the message that drives it may be lost: publish it again.
    Retry {
        /// The attempt to come.
        attempt: u32,
        /// When, in unix milliseconds.
        due_ms: u64,
        /// Its epoch now.
        epoch: u32,
    },
    /// It has failed for good, for this reason, and nobody has drawn the consequences: publish them again.
    Ended(String),
    /// Nothing to do: final, stale, held, or cancelled.
    Nothing(&'static str),
}

/// How an attempt ended, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Delivered.
    Delivered,
    /// Another attempt is due then.
    Retry {
        /// In unix milliseconds.
        due_ms: u64,
        /// Nothing of the webhook goes for as long.
        pause: Duration,
    },
    /// Failed for good.
    Failed {
        /// A word: `exhausted`, `gone`.
        reason: &'static str,
    },
    /// No request was made after all.
    Undone,
}

/// An attempt to be recorded.
#[derive(Debug)]
pub struct Attempted<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Which delivery.
    pub id: &'a DeliveryId,
    /// The claim it was made under.
    pub token: &'a str,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How it ended.
    pub verdict: &'a Verdict,
    /// The attempt's entry in the log.
    pub entry: String,
}

/// Whether an attempt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It does.
    Yes,
    /// The claim had passed to another: what came of it is not for us to say.
    Late,
}

/// Deliveries, to the services that make and schedule attempts.
#[derive(Clone)]
pub struct Deliveries {
    redis: Redis,
    claim: Batched,
    complete: Batched,
    scheduled: Batched,
}

impl Deliveries {
    /// Over `redis`: a claim holds for `lease`, or until its dispatcher is seen to be dead; a webhook without a cap of its own
    /// has `default_cap`. `life` is the claiming dispatcher's; who claims nothing has none.
    pub fn new(redis: &Redis, lease: Duration, default_cap: u32, retention: Span, life: Option<Life>) -> Self {
        let retention = retention.as_millis().to_string();
        let claim =
            vec![lease.as_millis().to_string(), default_cap.to_string(), MOST_CLAIMS.to_string(), retention.clone()];
        let living = move || life.as_ref().map_or_else(|| "*".to_owned(), Life::living);
        let shape = |name, body, common, answers| {
            let script = Script::named(name, body);
            Shape { script, common, changing: None, leading: 0, answers, lazy: false }
        };
        let [complete, claim, scheduled] = Batched::start(
            redis.clone(),
            [
                shape("complete", include_str!("scripts/complete.lua"), vec![retention], 1),
                Shape {
                    changing: Some(Box::new(living)),
                    ..shape("claim", include_str!("scripts/claim.lua"), claim, 1)
                },
                shape("scheduled", include_str!("scripts/scheduled.lua"), Vec::new(), 0),
            ],
        );
        Self { redis: redis.clone(), claim, complete, scheduled }
    }

    /// Claims a delivery for one attempt.
    pub async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claim, StoreError> {
        let ClaimRequest { attempt, epoch, accepted_ms, shape, .. } = request;
        let args = Args::new()
            .shown(request.id.event)
            .with(request.id.within_event().as_bytes())
            .with(request.token.as_bytes())
            .shown(format_args!("{attempt} {epoch} {accepted_ms} {shape}"));
        let answer = text(self.claim.call(request.tenant, args).await?.first())?;
        let odd = || StoreError::Odd(format!("`{answer}` for a claim"));
        let mut words = answer.split(' ');
        let verdict = words.next().unwrap_or_default();
        let mut next = || words.next().ok_or_else(odd);
        Ok(match verdict {
            "go" => Claim::Go {
                revision: next()?.parse().map_err(|_| odd())?,
                claimed_before: next()?.parse().map_err(|_| odd())?,
                first_attempt_ms: next()?.parse().map_err(|_| odd())?,
            },
            "wait" => {
                let wait = Duration::from_millis(next()?.parse().map_err(|_| odd())?);
                let named = next()?;
                Claim::Wait { wait, limit: Limit::ALL.into_iter().find(|limit| limit.name() == named) }
            }
            "retry" => Claim::Retry {
                attempt: next()?.parse().map_err(|_| odd())?,
                due_ms: next()?.parse().map_err(|_| odd())?,
                epoch: next()?.parse().map_err(|_| odd())?,
            },
            "ended" => Claim::Ended(next()?.to_owned()),
            "done" => Claim::Nothing("done"),
            "stale" => Claim::Nothing("stale"),
            "held" => {
                self.redis.replicated(request.tenant.as_str()).await; // no message drives it any more
                Claim::Nothing("held")
            }
            "cancelled" => Claim::Nothing("cancelled"),
            "odd" => {
                tracing::error!(tenant = %request.tenant, delivery = %request.id, "a record of a form that this version does not know");
                Claim::Wait { wait: ODD_RECORD, limit: None }
            }
            _ => return Err(odd()),
        })
    }

    /// Records an attempt.
    pub async fn complete(&self, attempted: &Attempted<'_>) -> Result<Recorded, StoreError> {
        let (verdict, due_ms, reason, pause) = match attempted.verdict {
            Verdict::Delivered => ("d", 0, "-", Duration::ZERO),
            Verdict::Retry { due_ms, pause } => ("r", *due_ms, "-", *pause),
            Verdict::Failed { reason } => ("f", 0, *reason, Duration::ZERO),
            Verdict::Undone => ("u", 0, "-", Duration::ZERO),
        };
        let (attempt, pause_ms) = (attempted.attempt, pause.as_millis());
        let args = Args::new()
            .shown(attempted.id.event)
            .with(attempted.id.within_event().as_bytes())
            .with(attempted.token.as_bytes())
            .shown(format_args!("{verdict} {attempt} {due_ms} {pause_ms} {reason}"))
            .with(attempted.entry.as_bytes());
        match text(self.complete.call(attempted.tenant, args).await?.first())?.as_str() {
            "recorded" => {
                if matches!(attempted.verdict, Verdict::Failed { .. }) {
                    self.redis.replicated(attempted.tenant.as_str()).await;
                }
                Ok(Recorded::Yes)
            }
            _ => Ok(Recorded::Late),
        }
    }

    /// Notes that what comes next for a delivery is in its queue: an attempt due then, or, without, its end's consequences.
    pub async fn scheduled(
        &self,
        tenant: &TenantId,
        id: &DeliveryId,
        attempt: u32,
        epoch: u32,
        due_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        let args = Args::new()
            .shown(id.event)
            .with(id.within_event().as_bytes())
            .shown(attempt)
            .shown(epoch)
            .shown(due_ms.unwrap_or(0));
        self.scheduled.call(tenant, args).await.map(drop)
    }

    /// The bytes of an event that was too large to travel with its deliveries; `None` where they are gone.
    pub async fn event_body(&self, tenant: &TenantId, id: &DeliveryId) -> Result<Option<Vec<u8>>, StoreError> {
        let key = format!("{}:e:{}", prefix(tenant.as_str()), id.event);
        let stored: Option<Vec<u8>> = self.redis.run(redis::cmd("HGET").arg(key).arg("b")).await?;
        stored.map(|stored| blob::unpack(&stored)).transpose()
    }
}
