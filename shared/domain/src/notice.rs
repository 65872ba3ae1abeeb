//! Notices: what a webhook's people, and its tenant's own webhooks, are told when something goes wrong. Which failure tells
//! what; how long a mail is worth sending.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::retry::DisableReason;

/// What all types of our own events begin with; publishers may not use it (contract.md, Publishing events).
pub const OUR_EVENTS: &str = "fanfare.";
/// A mail that could not be sent for so long tells nothing any more.
pub const MAIL_MAX_AGE: Duration = Duration::from_secs(24 * 3_600);
/// At most one mail per webhook and kind in this time.
pub const MAIL_EVERY: Duration = Duration::from_secs(3_600);
/// The waits between tries to send a mail; the last one again and again.
const MAIL_WAITS_SECS: [u64; 6] = [2, 10, 30, 120, 600, 1_800];

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// A delivery has failed for good.
    Exhausted,
    /// A webhook fails, for the first time after a success.
    Failing,
    /// A webhook is disabled.
    Disabled,
}

impl NoticeKind {
    /// The kind as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Failing => "failing",
            Self::Disabled => "disabled",
        }
    }

    /// The operational event that tells the same, where there is one.
    pub fn event_type(self) -> Option<&'static str> {
        match self {
            Self::Exhausted => Some("fanfare.delivery.exhausted"),
            Self::Failing => None,
            Self::Disabled => Some("fanfare.webhook.disabled"),
        }
    }
}

/// How a delivery stands after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It is tried again.
    ForNow,
    /// It has failed for good, which may disable its webhook.
    ForGood(Option<DisableReason>),
}

/// What is told of the failure of a delivery whose event is of type `kind`. Our own events beget none: a webhook that hears
/// of its own failures would never hear the end of it.
pub fn notices_of(kind: &str, failed: Failed) -> &'static [NoticeKind] {
    use NoticeKind::{Disabled, Exhausted, Failing};
    match failed {
        _ if kind.starts_with(OUR_EVENTS) => &[],
        Failed::ForNow => &[Failing],
        Failed::ForGood(None) => &[Exhausted],
        Failed::ForGood(Some(DisableReason::Exhausted)) => &[Exhausted, Disabled],
        // It was not used up: its receiver wants no more.
        Failed::ForGood(Some(DisableReason::Gone)) => &[Disabled],
    }
}

/// How long to wait before a mail that could not be sent `tries` times is tried again; `None` where it is too old then.
pub fn mail_again(tries: u32, age: Duration) -> Option<Duration> {
    let last = MAIL_WAITS_SECS.len() - 1;
    let at = usize::try_from(tries.saturating_sub(1)).map_or(last, |at| at.min(last));
    let wait = Duration::from_secs(MAIL_WAITS_SECS[at]);
    (age + wait <= MAIL_MAX_AGE).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_failure_tells_what() {
        use NoticeKind::{Disabled, Exhausted, Failing};
        for (kind, failed, told) in [
            ("order.paid", Failed::ForNow, &[Failing][..]),
            ("order.paid", Failed::ForGood(None), &[Exhausted]),
            ("order.paid", Failed::ForGood(Some(DisableReason::Exhausted)), &[Exhausted, Disabled]),
            ("order.paid", Failed::ForGood(Some(DisableReason::Gone)), &[Disabled]),
            ("fanfare.webhook.disabled", Failed::ForNow, &[]),
            ("fanfare.delivery.exhausted", Failed::ForGood(Some(DisableReason::Exhausted)), &[]),
        ] {
            assert_eq!(notices_of(kind, failed), told, "{kind} failed {failed:?}");
        }
    }

    #[test]
    fn a_mail_is_tried_again_ever_more_rarely_for_a_day() {
        let (mut age, mut tries, mut before) = (Duration::ZERO, 0, Duration::ZERO);
        loop {
            tries += 1;
            let Some(wait) = mail_again(tries, age) else { break };
            assert!(wait >= before, "try {tries}");
            (age, before) = (age + wait, wait);
        }
        assert!(age <= MAIL_MAX_AGE && age + Duration::from_secs(1_800) > MAIL_MAX_AGE, "{age:?}");
        assert!(tries < 60, "{tries}");
    }
}
