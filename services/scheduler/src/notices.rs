//! Notices: queued by failures, given here: by mail, or as an event of the tenant's own. What delays them delays no delivery.

use std::{sync::Arc, time::Duration};

use fanfare_bus::{Bus, DeliveryItem, EventItem, Message, Notice, Route, Settled, Way};
use fanfare_domain::{
    Event, EventId, hex,
    notice::{Failed, NoticeKind, mail_again, notices_of},
    span::rfc3339,
};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{Acceptance, Configuration, Events, HotLog, Log, MailClaim, MailEnd, StoreError, StoredWebhook};
use serde_json::json;

use crate::{
    mail::{About, Mailer, NotSent, text},
    metrics::Metrics,
};

/// A notice that finds another at its work comes again after this.
const ANOTHER_AT_IT: Duration = Duration::from_secs(10);
/// A notice that Redis keeps from being given comes again after this.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Everything that notices need.
pub(crate) struct Notices {
    pub(crate) bus: Bus,
    pub(crate) configuration: Configuration,
    pub(crate) known: fanfare_store::Notices,
    pub(crate) events: Events,
    pub(crate) log: HotLog,
    /// `None`: no mails (`FANFARE_SMTP__URL`).
    pub(crate) mailer: Option<Mailer>,
    /// The console's address, for mails.
    pub(crate) console: Option<String>,
    pub(crate) metrics: Metrics,
}

/// What became of a notice.
enum Given {
    /// It was given, or is none any more.
    Done,
    /// To come again.
    Later(Notice, Duration),
}

impl Notices {
    /// Queues what a delivery's failure has to tell; returns once that is confirmed.
    pub(crate) async fn queue(&self, event: &EventItem, item: &DeliveryItem) -> Result<(), StoreError> {
        let failed = item.ended.map_or(Failed::ForNow, |ended| Failed::ForGood(ended.disable));
        for kind in notices_of(&event.kind, failed) {
            let notice = |way| Notice {
                tenant: event.tenant.clone(),
                webhook: item.webhook.clone(),
                kind: *kind,
                way,
                delivery: event.delivery_id(item),
                at: now_ms(),
                tries: 0,
            };
            if kind.event_type().is_some() {
                self.bus.send_surely(&notice(Way::Event)).await;
            }
            if self.has_reader(event, item) && self.known.wanted(&event.tenant, &item.webhook, *kind).await? {
                self.bus.send_surely(&notice(Way::Mail)).await;
                fail_point("notices.queued");
                self.known.queued(&event.tenant, &item.webhook, *kind).await?;
            }
        }
        Ok(())
    }

    /// Whether a mail would be read by anybody, as far as known.
    fn has_reader(&self, event: &EventItem, item: &DeliveryItem) -> bool {
        let webhook =
            self.configuration.tenant(&event.tenant).and_then(|tenant| tenant.webhooks.get(&item.webhook).cloned());
        self.mailer.is_some() && webhook.is_some_and(|stored| stored.webhook.notify_email.is_some())
    }

    /// Gives a message's notice; acked once it is given or its next message is confirmed.
    pub(crate) async fn settle(self: Arc<Self>, message: Message) -> Settled {
        if let Some(notice) = self.bus.read_errand::<Notice>(&message).await {
            fail_point("notices.consumed");
            match self.give(&notice).await {
                Ok(Given::Done) => {}
                Ok(Given::Later(notice, wait)) => self.bus.send_after(wait, &notice).await,
                Err(error) => {
                    tracing::warn!(tenant = %notice.tenant, webhook = %notice.webhook, %error, "a notice waits");
                    self.bus.send_after(AFTER_ERROR, &notice).await;
                }
            }
            fail_point("notices.given");
        }
        Settled::Ack
    }

    async fn give(&self, notice: &Notice) -> Result<Given, StoreError> {
        let config = self.configuration.latest(&notice.tenant).await?;
        // Deleted meanwhile: nobody is left to be told.
        let Some(stored) = config.as_ref().and_then(|config| config.webhooks.get(&notice.webhook)) else {
            return Ok(Given::Done);
        };
        match notice.way {
            Way::Mail => self.mail(notice, stored).await,
            Way::Event => self.publish(notice, stored).await,
        }
    }

    async fn mail(&self, notice: &Notice, stored: &StoredWebhook) -> Result<Given, StoreError> {
        let (Some(mailer), Some(to)) = (&self.mailer, &stored.webhook.notify_email) else { return Ok(Given::Done) };
        let (tenant, webhook, kind) = (&notice.tenant, &notice.webhook, notice.kind);
        let token = hex(&rand::random::<[u8; 8]>());
        match self.known.claim(tenant, webhook, kind, &token).await? {
            MailClaim::Go => {}
            MailClaim::Sent => return Ok(Given::Done),
            MailClaim::Sending => return Ok(Given::Later(notice.clone(), ANOTHER_AT_IT)),
        }
        fail_point("notices.claimed");
        let text = text(&About {
            tenant,
            webhook: &stored.webhook,
            kind,
            delivery: &notice.delivery,
            at_ms: notice.at,
            console: self.console.as_deref(),
        });
        match mailer.send(to, text).await {
            Ok(()) => {
                fail_point("notices.sent");
                self.metrics.notice("sent");
                self.known.settled(tenant, webhook, kind, &token, MailEnd::Sent).await?;
                Ok(Given::Done)
            }
            Err(NotSent::Ever(why)) => {
                tracing::warn!(%tenant, %webhook, why, "the mail server refuses a notice");
                self.metrics.notice("refused");
                self.known.settled(tenant, webhook, kind, &token, MailEnd::GivenUp).await?;
                Ok(Given::Done)
            }
            Err(NotSent::ForNow(why)) => {
                let tries = notice.tries + 1;
                let age = Duration::from_millis(now_ms().saturating_sub(notice.at));
                self.metrics.notice("delayed");
                match mail_again(tries, age) {
                    Some(wait) => {
                        tracing::warn!(%tenant, %webhook, why, tries, "a notice waits for the mail server");
                        self.known.settled(tenant, webhook, kind, &token, MailEnd::Waits).await?;
                        Ok(Given::Later(Notice { tries, ..notice.clone() }, wait))
                    }
                    None => {
                        tracing::error!(%tenant, %webhook, why, "a notice was never sent: the mail server was away for a day");
                        self.known.settled(tenant, webhook, kind, &token, MailEnd::GivenUp).await?;
                        Ok(Given::Done)
                    }
                }
            }
        }
    }

    /// Publishes the operational event, as any event is accepted: its id is derived, so it is one however often we come here.
    async fn publish(&self, notice: &Notice, stored: &StoredWebhook) -> Result<Given, StoreError> {
        let Some(event) = self.event(notice, stored).await? else { return Ok(Given::Done) };
        let (tenant, accepted_ms) = (&notice.tenant, now_ms());
        let candidate = EventId::new(accepted_ms, rand::random());
        let (id, config) = match self.events.accept(tenant, &event, candidate).await? {
            Acceptance::Publish { event, config } => (event, config),
            Acceptance::Busy => return Ok(Given::Later(notice.clone(), ANOTHER_AT_IT)),
            Acceptance::Duplicate(_) => return Ok(Given::Done),
            Acceptance::Conflict => {
                tracing::error!(%tenant, kind = event.kind, "an operational event of this id says something else");
                return Ok(Given::Done);
            }
        };
        fail_point("notices.accepted");
        let item = EventItem::accepted(tenant, &event, id, accepted_ms, config);
        self.bus.publisher().publish_surely(Route::events(tenant), &item).await;
        fail_point("notices.published");
        self.metrics.notice("published");
        self.events.accepted(tenant, &event, id);
        Ok(Given::Done)
    }

    /// The event that tells of this; `None` where there is nothing to tell any more.
    async fn event(&self, notice: &Notice, stored: &StoredWebhook) -> Result<Option<Event>, StoreError> {
        let (webhook, delivery) = (&notice.webhook, &notice.delivery);
        let Some(kind) = notice.kind.event_type() else { return Ok(None) };
        let (id, at_ms, data) = match notice.kind {
            NoticeKind::Failing => return Ok(None),
            NoticeKind::Disabled => {
                // Enabled again before anybody was told.
                let Some(disabled) = &stored.webhook.disabled else { return Ok(None) };
                let data = json!({ "webhook": webhook, "reason": disabled.reason, "at": rfc3339(disabled.at) });
                (format!("disabled-{webhook}-{}", disabled.at), disabled.at, data)
            }
            NoticeKind::Exhausted => {
                let Some(detail) = self.log.delivery(&notice.tenant, delivery).await? else { return Ok(None) };
                let view = detail.view;
                let data = json!({
                    "webhook": webhook, "delivery": delivery, "event": delivery.event.to_string(),
                    "eventType": view.event_type, "attempts": view.attempts, "reason": view.reason,
                });
                (format!("exhausted-{delivery}"), view.ended_ms.unwrap_or(notice.at), data)
            }
        };
        let source = format!("/tenants/{}/webhooks/{webhook}", notice.tenant);
        Ok(Some(Event::of_our_own(&id, &source, kind, webhook.as_str(), at_ms, &data)))
    }
}
