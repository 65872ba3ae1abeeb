//! What the scheduler counts (operations.md, Metrics).

use fanfare_domain::{
    DisableReason,
    job::{JobEnd, JobKind},
    ladder::TIERS_MS,
};
use prometheus::{IntCounterVec, Opts, Registry};

/// The scheduler's counters; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    retries: IntCounterVec,
    disabled: IntCounterVec,
    jobs: IntCounterVec,
    mails: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> anyhow::Result<Self> {
        let retries = IntCounterVec::new(
            Opts::new("fanfare_retries_scheduled_total", "Waits put into tiers, by the tier."),
            &["tier"],
        )?;
        TIERS_MS.iter().for_each(|ms| drop(retries.with_label_values(&[&ms.to_string()])));
        let disabled = IntCounterVec::new(
            Opts::new("fanfare_webhooks_disabled_total", "Webhooks disabled, by the reason."),
            &["reason"],
        )?;
        [DisableReason::Gone, DisableReason::Exhausted]
            .iter()
            .for_each(|reason| drop(disabled.with_label_values(&[reason.as_str()])));
        let jobs = IntCounterVec::new(
            Opts::new("fanfare_jobs_ended_total", "Jobs that are over, by kind and end."),
            &["kind", "end"],
        )?;
        for kind in [JobKind::Resume, JobKind::Cancel] {
            for end in [JobEnd::Done, JobEnd::Off, JobEnd::Deleted, JobEnd::Superseded] {
                let _ = jobs.with_label_values(&[kind.as_str(), end.as_str()]);
            }
        }
        let mails = IntCounterVec::new(
            Opts::new("fanfare_notice_mails_total", "Tries to send a notice by mail, by what came of them."),
            &["outcome"],
        )?;
        ["sent", "refused", "delayed"].iter().for_each(|outcome| drop(mails.with_label_values(&[outcome])));
        registry.register(Box::new(mails.clone()))?;
        registry.register(Box::new(retries.clone()))?;
        registry.register(Box::new(disabled.clone()))?;
        registry.register(Box::new(jobs.clone()))?;
        Ok(Self { retries, disabled, jobs, mails })
    }

    pub(crate) fn waits_in(&self, tier_ms: u64) {
        self.retries.with_label_values(&[&tier_ms.to_string()]).inc();
    }

    pub(crate) fn disabled(&self, reason: DisableReason) {
        self.disabled.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn job_ended(&self, kind: JobKind, end: JobEnd) {
        self.jobs.with_label_values(&[kind.as_str(), end.as_str()]).inc();
    }

    pub(crate) fn mailed(&self, outcome: &str) {
        self.mails.with_label_values(&[outcome]).inc();
    }
}
