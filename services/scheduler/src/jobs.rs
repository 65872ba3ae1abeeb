//! Jobs, turn by turn: what a webhook held is released, a window at a time, or cancelled. Every step is one script, noted in
//! the job's record before anything is published; whoever comes after a crash publishes what is noted first.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_bus::{Bus, DeliveryItem, EventItem, JobItem, Message, Route, Settled, Waiting};
use fanfare_domain::{
    TenantId, hex,
    job::{JobEnd, JobKind, Resume, ResumeStep, look_pause, resume_step, turn_ends},
};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{Cancelled, Deliveries, Jobs, Look, Open, Released, StoreError};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Between two scans for jobs whose message is lost.
const SCAN_EVERY: Duration = Duration::from_secs(5);
/// A job that Redis keeps from going on comes back after this.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Everything that jobs need.
pub(crate) struct Driver {
    pub(crate) bus: Bus,
    pub(crate) jobs: Jobs,
    pub(crate) records: Deliveries,
    pub(crate) metrics: Metrics,
    /// Ends turns early.
    pub(crate) stop: CancellationToken,
}

/// What a turn leaves to do.
enum Left {
    /// Nothing: the job is over, or another's.
    Nothing,
    /// To come again.
    Again(JobItem, Duration),
}

impl Driver {
    /// Drives a message's job for one turn; acked once the job is over or its next message is confirmed.
    pub(crate) async fn settle(self: Arc<Self>, message: Message) -> Settled {
        if let Some(item) = self.bus.read_errand::<JobItem>(&message).await {
            fail_point("jobs.consumed");
            match self.turn(&item).await {
                Ok(Left::Nothing) => {}
                Ok(Left::Again(item, wait)) => self.bus.send_after(wait, &item).await,
                Err(error) => {
                    tracing::warn!(tenant = %item.tenant, job = %item.job, %error, "a job waits");
                    self.bus.send_after(AFTER_ERROR, &item).await;
                }
            }
            fail_point("jobs.passed");
        }
        Settled::Ack
    }

    async fn turn(&self, item: &JobItem) -> Result<Left, StoreError> {
        let token = hex(&rand::random::<[u8; 8]>());
        let open = match self.jobs.look(&item.tenant, &item.job, item.turn, &token, None).await? {
            Look::Nothing => return Ok(Left::Nothing),
            // The message of one who may be dead: it waits for the lease, and is stale where that one got on.
            Look::Leased(left) => return Ok(Left::Again(item.clone(), left + Duration::from_millis(100))),
            Look::Open(open) => open,
        };
        self.jobs.gets_on(&item.tenant, &item.job, now_ms()).await?;
        fail_point("jobs.leased");
        match open.kind {
            JobKind::Resume => self.resume(item, &token, open).await,
            JobKind::Cancel => self.cancel(item, &token).await,
        }
    }

    async fn resume(&self, item: &JobItem, token: &str, mut open: Open) -> Result<Left, StoreError> {
        let (began, mut happened) = (Instant::now(), Instant::now());
        loop {
            if !open.unpublished.is_empty() || open.delivered + open.failed > 0 {
                happened = Instant::now();
            }
            // Noted by one who died before they were published, or before that was noted.
            self.publish(&item.tenant, open.config, &open.unpublished).await?;
            let (window, step) = resume_step(&Resume {
                ends: open.ends,
                window: open.window,
                slots: open.slots,
                outstanding: open.outstanding,
                held: open.held,
                delivered: open.delivered,
                failed: open.failed,
                idle: happened.elapsed(),
                turn: began.elapsed(),
            });
            match step {
                _ if self.stop.is_cancelled() => return self.leave(item, token, Duration::ZERO).await,
                ResumeStep::Release(count) => {
                    let (config, released) = self.jobs.release(&item.tenant, &item.job, token, count, window).await?;
                    fail_point("jobs.released");
                    self.publish(&item.tenant, config, &released).await?;
                    happened = Instant::now();
                    // Each look reads all that is released: not again and again while they go out one by one.
                    tokio::time::sleep(look_pause(open.outstanding + count)).await;
                }
                ResumeStep::LookAfter(wait) => tokio::time::sleep(wait).await,
                ResumeStep::PassOn(wait) => return self.leave(item, token, wait).await,
                ResumeStep::End(end) => return self.end(item, token, JobKind::Resume, end).await,
            }
            open = match self.jobs.look(&item.tenant, &item.job, item.turn, token, Some(window)).await? {
                Look::Open(open) => open,
                Look::Nothing | Look::Leased(_) => return Ok(Left::Nothing), // the lease was lost: another goes on
            };
        }
    }

    async fn cancel(&self, item: &JobItem, token: &str) -> Result<Left, StoreError> {
        let began = Instant::now();
        loop {
            match self.jobs.cancel(&item.tenant, &item.job, token).await? {
                Cancelled::Lost => return Ok(Left::Nothing),
                Cancelled::All => return self.end(item, token, JobKind::Cancel, JobEnd::Done).await,
                Cancelled::Going => fail_point("jobs.cancelled"),
            }
            if let Some(wait) = turn_ends(began.elapsed()).or(self.stop.is_cancelled().then_some(Duration::ZERO)) {
                return self.leave(item, token, wait).await;
            }
        }
    }

    /// Puts released deliveries before the dispatchers, and notes that they are there.
    async fn publish(&self, tenant: &TenantId, config: u64, released: &[Released]) -> Result<(), StoreError> {
        if released.is_empty() {
            return Ok(());
        }
        // In their order: they become one message, or few.
        let each = released.iter().map(|one| {
            let item = item(tenant, config, one);
            async move { self.bus.publisher().publish_surely(Route::deliveries(), &item).await }
        });
        join_all(each).await;
        fail_point("jobs.published");
        let each = released.iter().map(|one| self.records.scheduled(tenant, &one.id, one.attempt, one.epoch, None));
        for noted in join_all(each).await {
            noted?;
        }
        fail_point("jobs.noted");
        Ok(())
    }

    async fn leave(&self, item: &JobItem, token: &str, wait: Duration) -> Result<Left, StoreError> {
        let next = self.jobs.leave(&item.tenant, &item.job, token).await?;
        fail_point("jobs.left");
        Ok(match next {
            Some(turn) => Left::Again(JobItem { turn, ..item.clone() }, wait),
            None => Left::Nothing,
        })
    }

    async fn end(&self, item: &JobItem, token: &str, kind: JobKind, end: JobEnd) -> Result<Left, StoreError> {
        self.jobs.end(&item.tenant, &item.job, token, end).await?;
        fail_point("jobs.ended");
        self.jobs.strike_off(&item.tenant, &item.job).await?;
        tracing::info!(tenant = %item.tenant, job = %item.job, kind = kind.as_str(), end = end.as_str(), "a job is over");
        self.metrics.job_ended(kind, end);
        Ok(Left::Nothing)
    }
}

/// Publishes the messages of jobs that nobody drives, at the start and ever so often.
pub(crate) async fn see_to(driver: Arc<Driver>) -> anyhow::Result<()> {
    while !driver.stop.is_cancelled() {
        match driver.jobs.abandoned(now_ms()).await {
            Ok(abandoned) => {
                for (tenant, job, turn) in abandoned {
                    tracing::debug!(%tenant, %job, turn, "a job that nobody drives is published");
                    driver.bus.send_surely(&JobItem { tenant, job, turn }).await;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot see whether jobs get on"),
        }
        tokio::select! {
            () = driver.stop.cancelled() => {}
            () = tokio::time::sleep(SCAN_EVERY) => {}
        }
    }
    Ok(())
}

/// The message that drives a released delivery. Its event stays in Redis, where the dispatcher reads it.
fn item(tenant: &TenantId, config: u64, released: &Released) -> EventItem {
    EventItem {
        tenant: tenant.clone(),
        id: released.id.event,
        kind: released.kind.clone(),
        accepted: released.accepted_ms,
        config,
        traceparent: None,
        event: None,
        deliveries: vec![DeliveryItem {
            webhook: released.webhook().clone(),
            replay: released.id.replay.clone(),
            attempt: released.attempt,
            epoch: released.epoch,
            shape: released.shape.clone(),
            waiting: Waiting::default(),
            ended: None,
        }],
    }
}
