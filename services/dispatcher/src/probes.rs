//! Requests that the api wants made now: a ping, a test on save. Made as a delivery's would be, and not recorded: the answer
//! goes to who asked.

use std::sync::Arc;

use fanfare_bus::{Bus, Message, Probe, Settled, topology};
use fanfare_runtime::now_ms;
use fanfare_store::AttemptEntry;
use tokio_util::sync::CancellationToken;

use crate::{deliveries::Dispatch, send::Meta, shapes::render};

/// Probes at work at once.
const PREFETCH: u16 = 16;

/// Answers probes until `stop`.
pub(crate) async fn consume(bus: Bus, dispatch: Arc<Dispatch>, stop: CancellationToken) -> anyhow::Result<()> {
    let work = |message: Message| {
        let (bus, dispatch) = (bus.clone(), dispatch.clone());
        async move {
            match serde_json::from_slice::<Probe>(&message.body) {
                Err(error) => tracing::error!(%error, "a probe that cannot be read"),
                Ok(probe) => match dispatch.probe(&probe).await {
                    Ok(entry) => {
                        let answer = serde_json::to_vec(&entry).expect("an entry is texts and numbers");
                        if let Err(error) = bus.answer(&message, answer).await {
                            tracing::warn!(%error, "a probe's answer is lost: who asked gives up in time");
                        }
                    }
                    Err(why) => tracing::warn!(webhook = %probe.webhook, why, "a probe cannot be made"),
                },
            }
            Settled::Ack // asked once, made once: a second request would be a surprise
        }
    };
    bus.consume(topology::PROBES, PREFETCH, &stop, work).await;
    Ok(())
}

impl Dispatch {
    async fn probe(&self, probe: &Probe) -> Result<AttemptEntry, String> {
        let webhook = self
            .webhooks
            .at_least(&probe.tenant, &probe.webhook, probe.revision)
            .await
            .map_err(|why| why.to_string())?;
        // Nobody has got it before: where the asker's catalog is not known here yet, today's will do.
        let catalog = self.shapes.catalog(&probe.shape).await.unwrap_or_else(|_| webhook.catalog.clone());
        let payload = render(&catalog, &probe.shape, probe.event.get().as_bytes())?;
        let id = format!("{}_{}", probe.id, probe.webhook);
        let meta = Meta { id: &id, attempt: 1, first_attempt_ms: now_ms(), redelivery: false, replay: None };
        Ok(self.sender.send(&webhook, &payload, &meta).await.entry)
    }
}
