//! Jobs in Redis: work on many deliveries, in steps that each are one script. One at a time drives a job, by lease; an
//! index of open jobs, written before a job is made, brings back those whose message is lost.

use std::{sync::Arc, time::Duration};

use fanfare_domain::{
    DeliveryId, JobId, Span, TenantId, WebhookId,
    job::{JobEnd, JobKind},
};

use crate::redis_link::{Redis, Script, StoreError, prefix};

/// Open jobs, `<tenant>/<job>`, each at the time (unix milliseconds) when somebody should see whether it gets on.
const INDEX: &str = "f:jobs";
/// How long a job whose making is under way is left alone.
const MAKING_MS: u64 = 3_000;
/// After so long, what was announced and not made never will be.
const NEVER_MADE_MS: u64 = 300_000;
/// How long a job that was seen to is left alone: much longer than a turn.
const SEEN_TO_MS: u64 = 60_000;
/// How long one who drives a job may go without a sign of life.
const LEASE: Duration = Duration::from_secs(5);
/// Jobs seen to in one go.
const JOBS_PER_SCAN: usize = 200;
/// Deliveries cancelled in one step.
const CANCELLED_PER_STEP: u32 = 100;

/// A delivery that a job has released, for its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Which.
    pub id: DeliveryId,
    /// Its event's type.
    pub kind: String,
    /// When its event was accepted, in unix milliseconds.
    pub accepted_ms: u64,
    /// The attempt to come.
    pub attempt: u32,
    /// Its epoch now.
    pub epoch: u32,
    /// What shapes its body.
    pub shape: String,
}

/// What one who wants to drive a job finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It has ended, was never made, or a later message drives it.
    Nothing,
    /// Another drives it, for so long if that one is dead.
    Leased(Duration),
    /// It is ours.
    Open(Open),
}

/// An open job, of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// What it does.
    pub kind: JobKind,
    /// What ends a resume, whatever is left.
    pub ends: Option<JobEnd>,
    /// The window decided last.
    pub window: u32,
    /// Attempts that may be under way at its webhook.
    pub slots: u32,
    /// Released, and not yet attempted.
    pub outstanding: u32,
    /// Still held.
    pub held: u64,
    /// Attempted since the last look, with success.
    pub delivered: u32,
    /// Attempted since the last look, without.
    pub failed: u32,
    /// The tenant's configuration version.
    pub config: u64,
    /// Released, and not known to be in a queue.
    pub unpublished: Vec<Released>,
}

/// What became of a step of cancelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// There may be more.
    Going,
    /// Nothing is left.
    All,
    /// Another drives the job.
    Lost,
}

/// Jobs, to those who drive them.
#[derive(Clone)]
pub struct Jobs {
    redis: Redis,
    /// The slots of a webhook that names none.
    default_slots: u32,
    retention_ms: u64,
    scripts: Arc<Scripts>,
}

struct Scripts {
    look: Script,
    resume: Script,
    cancel: Script,
    leave: Script,
    end: Script,
}

/// A script that knows a job's form.
macro_rules! job_script {
    ($file:literal) => {
        $crate::redis_link::Script::new(concat!(include_str!("scripts/jobs.lua"), "\n", include_str!($file)))
    };
}
pub(crate) use job_script;

impl Jobs {
    /// Over `redis`: a webhook without a cap of its own has `default_slots`, an ended job is kept for `retention`.
    pub fn new(redis: &Redis, default_slots: u32, retention: Span) -> Self {
        let scripts = Scripts {
            look: job_script!("scripts/job_look.lua"),
            resume: job_script!("scripts/job_resume.lua"),
            cancel: job_script!("scripts/job_cancel.lua"),
            leave: job_script!("scripts/job_leave.lua"),
            end: job_script!("scripts/job_end.lua"),
        };
        Self { redis: redis.clone(), default_slots, retention_ms: retention.as_millis(), scripts: Arc::new(scripts) }
    }

    /// Takes or keeps the lease on a job, at the turn that a message names. `window`: decided since the last look.
    pub async fn look(
        &self,
        tenant: &TenantId,
        job: &JobId,
        turn: u32,
        token: &str,
        window: Option<u32>,
    ) -> Result<Look, StoreError> {
        let lease = LEASE.as_millis().to_string();
        let window = window.map(|window| window.to_string()).unwrap_or_default();
        let (turn, slots) = (turn.to_string(), self.default_slots.to_string());
        let args = [job.as_str(), &turn, token, &lease, &slots, &window].map(str::as_bytes);
        let answer: Vec<String> = self.redis.script(&self.scripts.look, tenant.as_str(), &args).await?;
        let at = |index: usize| answer.get(index).map_or("", String::as_str);
        Ok(match at(0) {
            "gone" | "stale" => Look::Nothing,
            "leased" => Look::Leased(Duration::from_millis(number(at(1))?)),
            "odd" => return Err(StoreError::Odd("a job of a form that this version does not know".to_owned())),
            "open" => Look::Open(Open {
                kind: at(1).parse().map_err(StoreError::Odd)?,
                ends: end_of(at(3))?,
                window: number(at(4))?,
                slots: number(at(5))?,
                outstanding: number(at(6))?,
                held: number(at(7))?,
                delivered: number(at(8))?,
                failed: number(at(9))?,
                config: number(at(10))?,
                unpublished: released(answer.get(11..).unwrap_or_default())?,
            }),
            other => return Err(StoreError::Odd(format!("`{other}` for a look at a job"))),
        })
    }

    /// Releases the `count` oldest of what a resume's webhook holds, and tells the tenant's configuration version.
    pub async fn release(
        &self,
        tenant: &TenantId,
        job: &JobId,
        token: &str,
        count: u32,
        window: u32,
    ) -> Result<(u64, Vec<Released>), StoreError> {
        let (count, window) = (count.to_string(), window.to_string());
        let args = [job.as_str(), token, &count, &window].map(str::as_bytes);
        let answer: Vec<String> = self.redis.script(&self.scripts.resume, tenant.as_str(), &args).await?;
        match answer.split_first() {
            None => Ok((0, Vec::new())),
            Some((config, parts)) => Ok((number(config)?, released(parts)?)),
        }
    }

    /// Cancels some of what a job's webhooks hold.
    pub async fn cancel(&self, tenant: &TenantId, job: &JobId, token: &str) -> Result<Cancelled, StoreError> {
        let (lease, retention) = (LEASE.as_millis().to_string(), self.retention_ms.to_string());
        let count = CANCELLED_PER_STEP.to_string();
        let args = [job.as_str(), token, &lease, &count, &retention].map(str::as_bytes);
        let answer: String = self.redis.script(&self.scripts.cancel, tenant.as_str(), &args).await?;
        match answer.as_str() {
            "going" => Ok(Cancelled::Going),
            "empty" => Ok(Cancelled::All),
            "lost" => Ok(Cancelled::Lost),
            other => Err(StoreError::Odd(format!("`{other}` for a step of cancelling"))),
        }
    }

    /// Gives a job's lease back at the end of a turn, and names the next; `None` where another drives it.
    pub async fn leave(&self, tenant: &TenantId, job: &JobId, token: &str) -> Result<Option<u32>, StoreError> {
        let args = [job.as_str(), token].map(str::as_bytes);
        let turn: Option<String> = self.redis.script(&self.scripts.leave, tenant.as_str(), &args).await?;
        turn.map(|turn| number(&turn)).transpose()
    }

    /// Ends a job.
    pub async fn end(&self, tenant: &TenantId, job: &JobId, token: &str, end: JobEnd) -> Result<(), StoreError> {
        let state = if end == JobEnd::Done { "done" } else { "stopped" };
        let retention = self.retention_ms.to_string();
        let args = [job.as_str(), token, state, end.as_str(), &retention].map(str::as_bytes);
        self.redis.script::<u32>(&self.scripts.end, tenant.as_str(), &args).await.map(drop)
    }

    /// Takes a job out of the index: it has ended, or there is none.
    pub async fn strike_off(&self, tenant: &TenantId, job: &JobId) -> Result<(), StoreError> {
        strike_off(&self.redis, tenant, job).await
    }

    /// Notes that a job gets on: nobody needs to see to it for a while.
    pub async fn gets_on(&self, tenant: &TenantId, job: &JobId, now_ms: u64) -> Result<(), StoreError> {
        put(&self.redis, tenant, job, now_ms + SEEN_TO_MS).await
    }

    /// Open jobs that nobody drives and whose message may be lost, each with its turn: to be published again.
    pub async fn abandoned(&self, now_ms: u64) -> Result<Vec<(TenantId, JobId, u32)>, StoreError> {
        let mut due = redis::cmd("ZRANGEBYSCORE");
        due.arg(INDEX).arg("-inf").arg(now_ms).arg("WITHSCORES").arg("LIMIT").arg(0).arg(JOBS_PER_SCAN);
        let due: Vec<(String, u64)> = self.redis.run(&due).await?;
        let mut abandoned = Vec::new();
        for (member, at_ms) in due {
            let Some((tenant, job)) = parse_member(&member) else {
                tracing::error!(member, "the index of jobs holds what is no job");
                continue;
            };
            let mut known = redis::cmd("HMGET");
            known.arg(format!("{}:job:{job}", prefix(tenant.as_str()))).arg("s").arg("turn").arg("lease");
            let known: (Option<String>, Option<u32>, Option<u64>) = self.redis.run(&known).await?;
            match judged(&known, at_ms, now_ms) {
                Seen::Over => self.strike_off(&tenant, &job).await?,
                Seen::BeingMade => {}
                Seen::Driven => self.gets_on(&tenant, &job, now_ms).await?,
                Seen::Abandoned { turn } => {
                    // Not to be seen to by all schedulers at once, and again soon should this one die before it publishes.
                    put(&self.redis, &tenant, &job, now_ms + LEASE.as_millis() as u64).await?;
                    abandoned.push((tenant, job, turn));
                }
            }
        }
        Ok(abandoned)
    }
}

/// How a job in the index stands.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It has ended, or was never made.
    Over,
    /// Whoever announced it may be making it.
    BeingMade,
    /// Somebody has its lease.
    Driven,
    /// Nobody has.
    Abandoned { turn: u32 },
}

fn judged(known: &(Option<String>, Option<u32>, Option<u64>), at_ms: u64, now_ms: u64) -> Seen {
    match known {
        (None, ..) if now_ms.saturating_sub(at_ms) < NEVER_MADE_MS => Seen::BeingMade,
        (Some(state), turn, lease) if state == "open" => match lease {
            Some(lease) if *lease > now_ms => Seen::Driven,
            _ => Seen::Abandoned { turn: turn.unwrap_or(0) },
        },
        _ => Seen::Over,
    }
}

/// Puts a job that may be made next into the index: first, so that no crash in between loses it.
pub(crate) async fn announce(redis: &Redis, tenant: &TenantId, job: &JobId, now_ms: u64) -> Result<(), StoreError> {
    put(redis, tenant, job, now_ms + MAKING_MS).await
}

/// The keys of jobs that are not over, so many at most.
pub(crate) async fn open_keys(redis: &Redis, most: usize) -> Result<Vec<String>, StoreError> {
    let members: Vec<String> = redis.run(redis::cmd("ZRANGE").arg(INDEX).arg(0).arg(most)).await?;
    let parsed = members.iter().filter_map(|member| parse_member(member));
    Ok(parsed.map(|(tenant, job)| format!("{}:job:{job}", prefix(tenant.as_str()))).collect())
}

pub(crate) async fn strike_off(redis: &Redis, tenant: &TenantId, job: &JobId) -> Result<(), StoreError> {
    redis.run::<()>(redis::cmd("ZREM").arg(INDEX).arg(member(tenant, job))).await
}

async fn put(redis: &Redis, tenant: &TenantId, job: &JobId, look_at_ms: u64) -> Result<(), StoreError> {
    redis.run::<()>(redis::cmd("ZADD").arg(INDEX).arg(look_at_ms).arg(member(tenant, job))).await
}

fn member(tenant: &TenantId, job: &JobId) -> String {
    format!("{tenant}/{job}")
}

fn parse_member(text: &str) -> Option<(TenantId, JobId)> {
    let (tenant, job) = text.split_once('/')?;
    Some((tenant.parse().ok()?, job.parse().ok()?))
}

fn end_of(text: &str) -> Result<Option<JobEnd>, StoreError> {
    match text {
        "-" => Ok(None),
        _ => [JobEnd::Off, JobEnd::Deleted, JobEnd::Superseded]
            .into_iter()
            .find(|end| end.as_str() == text)
            .map(Some)
            .ok_or_else(|| StoreError::Odd(format!("`{text}` for what ends a job"))),
    }
}

/// Deliveries, seven texts each (scripts/job_look.lua, job_resume.lua).
fn released(parts: &[String]) -> Result<Vec<Released>, StoreError> {
    let one = |part: &[String]| {
        let [ulid, field, kind, accepted_ms, attempt, epoch, shape] = part else {
            return Err(StoreError::Odd(format!("{} texts for a delivery", part.len())));
        };
        let id = format!("{ulid}_{field}");
        Ok(Released {
            id: id.parse().map_err(|_| StoreError::Odd(format!("`{id}` for a delivery")))?,
            kind: kind.clone(),
            accepted_ms: number(accepted_ms)?,
            attempt: number(attempt)?,
            epoch: number(epoch)?,
            shape: shape.clone(),
        })
    };
    parts.chunks(7).map(one).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Odd(format!("`{text}` where a number should be")))
}

impl Released {
    /// The webhook it is for.
    pub fn webhook(&self) -> &WebhookId {
        &self.id.webhook
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_index_says_of_a_job() {
        let open = |lease: u64| (Some("open".to_owned()), Some(3), Some(lease));
        for (known, at_ms, seen) in [
            (open(0), 900_000, Seen::Abandoned { turn: 3 }),
            (open(999_999), 900_000, Seen::Abandoned { turn: 3 }),
            (open(1_000_001), 900_000, Seen::Driven),
            ((Some("done".to_owned()), Some(1), Some(0)), 900_000, Seen::Over),
            // Announced, and not there: being made, or never.
            ((None, None, None), 990_000, Seen::BeingMade),
            ((None, None, None), 600_000, Seen::Over),
        ] {
            assert_eq!(judged(&known, at_ms, 1_000_000), seen, "{known:?}");
        }
    }

    #[test]
    fn a_released_delivery_is_read_as_written() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let one = ["01K3V7M2Z8Q4R6T1W9X0Y5B3CD", "5ceec43ce1b5b412ba9d0e73_r7", "order.paid", "5", "2", "1", "a:full"];
        let read = released(&texts(&one)).unwrap();
        assert_eq!(read[0].id.to_string(), "01K3V7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73_r7");
        assert_eq!((read[0].attempt, read[0].epoch, read[0].accepted_ms), (2, 1, 5));
        assert!(released(&texts(&one[..6])).is_err() && released(&[]).unwrap().is_empty());
    }
}
