//! Requests that the api wants made now: a ping, a test on save. Made as a delivery's would be, and not recorded: the answer
//! goes to who asked.

use std::{sync::Arc, time::Duration};

use fanfare_bus::{Bus, Message, Probe, ProbeOf, Probed, Settled, topology};
use fanfare_runtime::now_ms;
use fanfare_store::{AttemptEntry, EntryForm};
use tokio_util::sync::CancellationToken;

use crate::{
    deliveries::{Dispatch, entry_without_request},
    send::Meta,
    shapes::render,
    webhooks::{InForce, NotReady},
};

/// Probes at work at once.
const PREFETCH: u16 = 16;
/// An answer that the broker does not take within this is of no use to anybody.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Answers probes until `stop`.
pub(crate) async fn consume(bus: Bus, dispatch: Arc<Dispatch>, stop: CancellationToken) -> anyhow::Result<()> {
    let work = |message: Message| {
        let (bus, dispatch) = (bus.clone(), dispatch.clone());
        async move {
            if message.is_too_late(now_ms()) {
                tracing::info!("a probe that nobody waits for any more is left");
                return Settled::Ack;
            }
            match serde_json::from_slice::<Probe>(&message.body) {
                Err(error) => tracing::error!(%error, "a probe that cannot be read"),
                Ok(probe) => {
                    let answer = dispatch.probed(&probe).await;
                    let answer = serde_json::to_vec(&answer).expect("an answer is a word and a text");
                    match tokio::time::timeout(ANSWER_WITHIN, bus.answer(&message, answer)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            tracing::warn!(%error, "a probe's answer is lost: who asked gives up in time");
                        }
                        Err(_) => {
                            tracing::warn!("the broker does not take a probe's answer: who asked gives up in time")
                        }
                    }
                }
            }
            Settled::Ack
        }
    };
    bus.consume(topology::PROBES, PREFETCH, &stop, work).await;
    Ok(())
}

impl Dispatch {
    async fn probed(&self, probe: &Probe) -> Probed {
        let webhook = match self.webhook_of(probe).await {
            Ok(webhook) => webhook,
            Err(why) => {
                tracing::warn!(webhook = %probe.webhook, %why, "a probe cannot be made");
                return Probed::Not;
            }
        };
        let entry = self.probe(probe, &webhook).await;
        let entry = serde_json::to_string(&entry).expect("an entry is texts and numbers");
        Probed::Made(self.webhooks.sealer().seal(&probe.tenant, &probe.webhook, &entry))
    }

    async fn webhook_of(&self, probe: &Probe) -> Result<Arc<InForce>, NotReady> {
        match &probe.of {
            ProbeOf::Stored { revision } => self.webhooks.at_least(&probe.tenant, &probe.webhook, *revision).await,
            ProbeOf::Unsaved { sealed } => {
                let text = self.webhooks.sealer().open(&probe.tenant, &probe.webhook, sealed)?;
                let stored = serde_json::from_str(&text).map_err(|_| NotReady::UnknownForm)?;
                self.webhooks.unsaved(&probe.tenant, &stored).await.map(Arc::new)
            }
        }
    }

    async fn probe(&self, probe: &Probe, webhook: &InForce) -> AttemptEntry {
        // Nobody has got it before: where the asker's catalog is not known here yet, today's will do.
        let catalog = self.shapes.catalog(&probe.shape).await.unwrap_or_else(|_| webhook.catalog.clone());
        let payload = match render(&catalog, &probe.shape, probe.event.get().as_bytes()) {
            Ok(payload) => payload,
            Err(why) => return AttemptEntry { error: Some(why), ..entry_without_request(webhook) },
        };
        let id = format!("{}_{}", probe.id, probe.webhook);
        let first_attempt_ms = now_ms();
        let form = EntryForm::Whole;
        let meta = Meta { id: &id, attempt: 1, first_attempt_ms, redelivery: false, replay: None, form };
        self.sender.send(webhook, &payload, &meta).await.entry
    }
}
