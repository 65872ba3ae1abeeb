//! What the scheduler counts (operations.md, Metrics).

use fanfare_domain::{
    DisableReason,
    job::{JobEnd, JobKind},
    ladder::TIERS_MS,
};
use fanfare_metrics::{Counters, IntCounter, counters};

/// The scheduler's counters; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    retries: Vec<(u64, IntCounter)>,
    disabled: Counters<1>,
    jobs: Counters<2>,
    notices: Counters<1>,
}

impl Metrics {
    pub(crate) fn declare() -> Self {
        let retries = counters(
            "fanfare_retries_scheduled_total",
            "Waits put into tiers, by the tier's length in milliseconds.",
            ["tier"],
            [],
        );
        let kinds = [JobKind::Resume, JobKind::Cancel].into_iter();
        let ends = [JobEnd::Done, JobEnd::Off, JobEnd::Deleted, JobEnd::Superseded];
        Self {
            retries: TIERS_MS.iter().map(|ms| (*ms, retries.also([&ms.to_string()]))).collect(),
            disabled: counters(
                "fanfare_webhooks_disabled_total",
                "Webhooks that Fanfare disabled, by the reason.",
                ["reason"],
                [DisableReason::Gone, DisableReason::Exhausted].map(|reason| [reason.as_str()]),
            ),
            jobs: counters(
                "fanfare_jobs_ended_total",
                "Jobs that are over, by kind and by how they ended.",
                ["kind", "end"],
                kinds.flat_map(|kind| ends.map(|end| [kind.as_str(), end.as_str()])),
            ),
            notices: counters(
                "fanfare_notices_total",
                "Notices by what came of them: operational events published; mails sent, refused for good, or delayed.",
                ["result"],
                [["published"], ["sent"], ["refused"], ["delayed"]],
            ),
        }
    }

    pub(crate) fn waits_in(&self, tier_ms: u64) {
        if let Some((_, counter)) = self.retries.iter().find(|(ms, _)| *ms == tier_ms) {
            counter.inc();
        }
    }

    pub(crate) fn disabled(&self, reason: DisableReason) {
        self.disabled.inc([reason.as_str()]);
    }

    pub(crate) fn job_ended(&self, kind: JobKind, end: JobEnd) {
        self.jobs.inc([kind.as_str(), end.as_str()]);
    }

    pub(crate) fn notice(&self, result: &str) {
        self.notices.inc([result]);
    }
}
