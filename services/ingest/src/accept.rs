//! From an event to its acceptance: judged by the tenant's catalog, claimed in Redis, confirmed by the broker.

use std::time::Duration;

use fanfare_bus::{EventItem, Link, PublishError, Publisher, Route};
use fanfare_catalog::Catalogs;
use fanfare_domain::{Event, EventId, FieldError, TenantId};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{Acceptance, Configuration, Events, StoreError, TenantConfig};
use tokio::time::timeout;

use crate::metrics::Metrics;

/// How long a publisher waits for another who is publishing the same event.
const WAIT_FOR_TWIN: Duration = Duration::from_millis(1_500);
/// How long a confirm may take before the publisher is told to come again; within the claim's lease.
const CONFIRM_WITHIN: Duration = Duration::from_secs(8);

/// Everything that accepting an event needs.
pub(crate) struct Intake {
    pub(crate) configuration: Configuration,
    pub(crate) catalogs: Catalogs,
    pub(crate) events: Events,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
}

/// An event that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) event: EventId,
    pub(crate) duplicate: bool,
}

/// Why an event was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The event, or what it names, is wrong.
    Invalid(Vec<FieldError>),
    /// Its id was accepted with another content.
    Conflict,
    /// What we need is away: the same again, later.
    Unavailable(String),
    /// So is what this tenant alone needs: its events must not keep others waiting.
    Stuck(String),
}

impl Refused {
    pub(crate) fn invalid(field: &str, message: &str) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }
}

impl Intake {
    /// Accepts an event of `tenant`: `Ok` once the broker has it.
    pub(crate) async fn accept(
        &self,
        tenant: &TenantConfig,
        event: &Event,
        source: &'static str,
    ) -> Result<Accepted, Refused> {
        self.metrics.size.observe(event.json.get().len() as f64);
        let result = self.judge_claim_publish(tenant, event).await;
        match &result {
            Ok(Accepted { duplicate: false, .. }) => self.metrics.accepted.inc([source]),
            Ok(Accepted { duplicate: true, .. }) => self.metrics.duplicate.inc([source]),
            Err(refused) => self.metrics.rejected.inc([reason(refused)]),
        }
        result
    }

    async fn judge_claim_publish(&self, tenant: &TenantConfig, event: &Event) -> Result<Accepted, Refused> {
        let catalog = self.catalogs.get(&tenant.tenant.catalog).ok_or_else(|| {
            Refused::Stuck(format!("the tenant's catalog `{}` is not loaded here", tenant.tenant.catalog))
        })?;
        catalog.validate(event).map_err(Refused::Invalid)?;
        self.broker_takes_publishes()?;
        let tenant = &tenant.tenant.id;
        match self.claim(tenant, event).await? {
            Claimed::Before(id) => Ok(Accepted { event: id, duplicate: true }),
            Claimed::Now { id, accepted_ms, config } => {
                fail_point("ingest.claimed");
                self.publish(tenant, event, id, accepted_ms, config).await?;
                Ok(Accepted { event: id, duplicate: false })
            }
        }
    }

    fn broker_takes_publishes(&self) -> Result<(), Refused> {
        match *self.publisher.link().borrow() {
            Link::Up => Ok(()),
            Link::Blocked => Err(Refused::Unavailable("the broker takes no messages at present".to_owned())),
            Link::Away => Err(Refused::Unavailable("the broker is away".to_owned())),
        }
    }

    async fn claim(&self, tenant: &TenantId, event: &Event) -> Result<Claimed, Refused> {
        let deadline = tokio::time::Instant::now() + WAIT_FOR_TWIN;
        let mut pause = Duration::from_millis(10);
        loop {
            let accepted_ms = now_ms();
            let candidate = EventId::new(accepted_ms, rand::random());
            match self.events.accept(tenant, event, candidate).await.map_err(|error| away(&error))? {
                Acceptance::Publish { event: id, config } => return Ok(Claimed::Now { id, accepted_ms, config }),
                Acceptance::Duplicate(id) => return Ok(Claimed::Before(id)),
                Acceptance::Conflict => return Err(Refused::Conflict),
                Acceptance::Busy if tokio::time::Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                Acceptance::Busy => {
                    return Err(Refused::Unavailable("the same event is being published right now".to_owned()));
                }
            }
        }
    }

    async fn publish(
        &self,
        tenant: &TenantId,
        event: &Event,
        id: EventId,
        accepted_ms: u64,
        config: u64,
    ) -> Result<(), Refused> {
        let item = EventItem::accepted(tenant, event, id, accepted_ms, config);
        let mut link = self.publisher.link();
        let confirmed = tokio::select! {
            biased;
            confirmed = timeout(CONFIRM_WITHIN, self.publisher.publish(Route::events(tenant), &item)) => confirmed,
            _ = link.wait_for(|link| *link != Link::Up) => Ok(Err(PublishError::Lost)),
        };
        match confirmed {
            Ok(Ok(())) => {
                fail_point("ingest.published");
                self.events.accepted(tenant, event, id);
                Ok(())
            }
            failed => {
                self.events.release(tenant, event, id);
                Err(Refused::Unavailable(match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the broker has not confirmed in time".to_owned(),
                }))
            }
        }
    }
}

enum Claimed {
    Now { id: EventId, accepted_ms: u64, config: u64 },
    Before(EventId),
}

/// What a publisher is told of a failing Redis: not where it is.
pub(crate) fn away(error: &StoreError) -> Refused {
    match error {
        StoreError::Away(_) => Refused::Unavailable("Redis is away".to_owned()),
        StoreError::Lost => Refused::Stuck(error.to_string()),
        StoreError::Odd(why) => {
            tracing::error!(why, "Redis answered what this version does not understand");
            Refused::Stuck("what is stored cannot be read".to_owned())
        }
    }
}

fn reason(refused: &Refused) -> &'static str {
    match refused {
        Refused::Invalid(_) => "invalid",
        Refused::Conflict => "conflict",
        Refused::Unavailable(_) | Refused::Stuck(_) => "unavailable",
    }
}
