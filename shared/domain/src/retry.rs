//! What follows an attempt: done, tried again after a wait, given up, disabled.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// The longest wait a receiver may ask for with `Retry-After` (contract.md, Requests to receivers).
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How deliveries of one webhook are tried: its catalog's policy, with the webhook's own schedule where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeliveryPolicy {
    /// The waits between attempts: each from a failure to the attempt after it.
    pub schedule: Vec<Span>,
    /// Up to this many percent of a wait are added to it by chance, so that many webhooks do not return at once.
    pub jitter_percent: u8,
    /// The statuses that are a success; empty: all of 2xx.
    pub success: Vec<u16>,
    /// Statuses that end the delivery and disable the webhook at once.
    pub gone: Vec<u16>,
    /// A delivery that has used up its schedule disables the webhook.
    pub exhausted_disables: bool,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        let schedule = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Span::secs).to_vec();
        Self { schedule, jitter_percent: 0, success: Vec::new(), gone: vec![410], exhausted_disables: false }
    }
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// An answer came, and its status is no success.
    Http,
    /// No whole answer came in time.
    Timeout,
    /// No connection came about, or it broke.
    Connect,
    /// The target's name did not resolve.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// The target's address is one that Fanfare may not call.
    RefusedTarget,
    /// What came is no HTTP answer.
    BadResponse,
    /// No request could be made of the event: the catalog's template fails on it.
    Template,
}

impl Failure {
    /// The metric's label (operations.md, Metrics).
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::RefusedTarget => "refused_target",
            Self::BadResponse => "bad_response",
            Self::Template => "template",
        }
    }
}

/// What an attempt brought, before any rule is applied to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A receiver's answer.
    Response {
        /// Its HTTP status.
        status: u16,
        /// What its `Retry-After` asks for, where it has one.
        retry_after: Option<Duration>,
    },
    /// No answer.
    None(Failure),
}

/// The wait that a `Retry-After` asks for at `now_ms` (unix milliseconds): seconds or a date (RFC 9110 10.2.3).
pub fn retry_after(value: &str, now_ms: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(secs) = value.parse::<u64>() {
        return Some(Duration::from_secs(secs));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let at_ms = u64::try_from(date.as_millisecond()).ok()?;
    Some(Duration::from_millis(at_ms.saturating_sub(now_ms)))
}

/// An attempt judged by a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took the delivery.
    Accepted,
    /// The receiver wants no more deliveries, ever.
    Gone,
    /// It failed; another attempt may follow.
    Failed {
        /// How.
        failure: Failure,
        /// The wait that the receiver asked for, within [`RETRY_AFTER_MAX`].
        retry_after: Option<Duration>,
    },
}

/// Judges an attempt's answer by the policy.
pub fn outcome(answer: &Answer, policy: &DeliveryPolicy) -> Outcome {
    match *answer {
        Answer::None(failure) => Outcome::Failed { failure, retry_after: None },
        Answer::Response { status, .. } if policy.is_success(status) => Outcome::Accepted,
        Answer::Response { status, .. } if policy.gone.contains(&status) => Outcome::Gone,
        Answer::Response { status, retry_after } => {
            // Only these two say "come back later" (RFC 9110 10.2.3, RFC 6585 4); elsewhere the header means other things.
            let asked = retry_after.filter(|_| matches!(status, 429 | 503)).map(|asked| asked.min(RETRY_AFTER_MAX));
            Outcome::Failed { failure: Failure::Http, retry_after: asked }
        }
    }
}

impl DeliveryPolicy {
    fn is_success(&self, status: u16) -> bool {
        if self.success.is_empty() { (200..300).contains(&status) } else { self.success.contains(&status) }
    }

    /// This policy with a webhook's own schedule instead of the catalog's.
    pub fn with_schedule(mut self, schedule: Option<&[Span]>) -> Self {
        if let Some(own) = schedule {
            self.schedule = own.to_vec();
        }
        self
    }
}

/// Why Fanfare disabled a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisableReason {
    /// The receiver answered that it is gone (410 by default).
    Gone,
    /// A delivery used up its schedule.
    Exhausted,
}

impl DisableReason {
    /// The reason as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Exhausted => "exhausted",
        }
    }
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Delivered.
    Done,
    /// Another attempt, no earlier than after this wait.
    Retry {
        /// The wait, from the failure.
        after: Duration,
        /// The receiver asked for it by `Retry-After`: nothing of this webhook goes earlier.
        whole_webhook: Option<Duration>,
    },
    /// No further attempt: the delivery has failed.
    GiveUp {
        /// What the webhook is disabled for, where it is.
        disable: Option<DisableReason>,
    },
}

/// A share of 0 to 1 by which a wait's jitter is drawn; chance is the caller's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance(pub f64);

/// What becomes of a delivery after its `made`th attempt (from 1).
pub fn next_step(outcome: Outcome, made: u32, policy: &DeliveryPolicy, chance: Chance) -> NextStep {
    let (failure, retry_after) = match outcome {
        Outcome::Accepted => return NextStep::Done,
        Outcome::Gone => return NextStep::GiveUp { disable: Some(DisableReason::Gone) },
        Outcome::Failed { failure, retry_after } => (failure, retry_after),
    };
    debug_assert!(made >= 1, "{failure:?} of an attempt that was not made");
    match policy.schedule.get(made.saturating_sub(1) as usize) {
        None => NextStep::GiveUp { disable: policy.exhausted_disables.then_some(DisableReason::Exhausted) },
        Some(step) => {
            let wait = step.0.max(retry_after.unwrap_or_default());
            let jitter = wait.mul_f64(f64::from(policy.jitter_percent) / 100.0 * chance.0.clamp(0.0, 1.0));
            NextStep::Retry { after: wait + jitter, whole_webhook: retry_after }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NextStep::{Done, GiveUp, Retry};
    use proptest::prelude::*;

    fn policy(schedule: &[&str]) -> DeliveryPolicy {
        DeliveryPolicy { schedule: schedule.iter().map(|s| s.parse().unwrap()).collect(), ..DeliveryPolicy::default() }
    }

    fn answered(status: u16) -> Answer {
        Answer::Response { status, retry_after: None }
    }

    fn asked(status: u16, secs: u64) -> Answer {
        Answer::Response { status, retry_after: Some(Duration::from_secs(secs)) }
    }

    fn retry(secs: u64) -> NextStep {
        Retry { after: Duration::from_secs(secs), whole_webhook: None }
    }

    fn asked_retry(secs: u64, asked: u64) -> NextStep {
        Retry { after: Duration::from_secs(secs), whole_webhook: Some(Duration::from_secs(asked)) }
    }

    #[test]
    fn what_follows_an_attempt() {
        let twice = policy(&["5s", "60s"]);
        let strict = DeliveryPolicy { success: vec![200], gone: vec![], exhausted_disables: true, ..twice.clone() };
        for (policy, made, answer, expected) in [
            (&twice, 1, answered(204), Done),
            (&twice, 1, answered(302), retry(5)),
            (&twice, 1, answered(503), retry(5)),
            (&twice, 2, answered(500), retry(60)),
            (&twice, 3, answered(500), GiveUp { disable: None }),
            (&twice, 1, asked(429, 90), asked_retry(90, 90)),
            (&twice, 2, asked(503, 1), asked_retry(60, 1)),
            (&twice, 1, asked(503, 777_600), asked_retry(3_600, 3_600)),
            (&twice, 1, asked(500, 90), retry(5)),
            (&twice, 1, Answer::None(Failure::Dns), retry(5)),
            (&twice, 3, Answer::None(Failure::Timeout), GiveUp { disable: None }),
            (&twice, 1, answered(410), GiveUp { disable: Some(DisableReason::Gone) }),
            (&strict, 1, answered(201), retry(5)),
            (&strict, 1, answered(200), Done),
            (&strict, 1, answered(410), retry(5)),
            (&strict, 3, answered(410), GiveUp { disable: Some(DisableReason::Exhausted) }),
        ] {
            let step = next_step(outcome(&answer, policy), made, policy, Chance(0.0));
            assert_eq!(step, expected, "{answer:?} after attempt {made}");
        }
    }

    #[test]
    fn a_receiver_asks_in_seconds_or_by_date() {
        let now_ms = 1_445_412_470_000; // 2015-10-21 07:27:50 UTC
        for (value, wait) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(10)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(value, now_ms), wait.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn the_default_schedule_is_the_contracts() {
        let spans: Vec<String> = DeliveryPolicy::default().schedule.iter().map(Span::to_string).collect();
        assert_eq!(spans, ["5s", "5min", "30min", "2h", "5h", "10h", "10h"]);
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_its_step_and_no_delivery_tried_more_often_than_scheduled(
            steps in prop::collection::vec(0_u64..604_800, 0..20), made in 1_u32..30, jitter_percent in 0_u8..=100,
            chance in 0.0_f64..=1.0, asked in prop::option::of(0_u64..1_000_000),
        ) {
            let policy = DeliveryPolicy {
                schedule: steps.iter().copied().map(Span::secs).collect(), jitter_percent, ..DeliveryPolicy::default()
            };
            let answer = Answer::Response { status: 503, retry_after: asked.map(Duration::from_secs) };
            match next_step(outcome(&answer, &policy), made, &policy, Chance(chance)) {
                Retry { after, .. } => prop_assert!(after >= policy.schedule[made as usize - 1].0),
                GiveUp { .. } => prop_assert!(made as usize > steps.len()),
                Done => prop_assert!(false, "a 503 is no success"),
            }
        }
    }
}
