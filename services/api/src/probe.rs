//! A request to a webhook's target now: a ping, a test on save. The dispatcher makes it, asked over the broker: only it calls
//! receivers. Bounded, so that nobody hammers a target by it: one at a time per webhook, a few per tenant, each with an end.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::StatusCode;
use fanfare_bus::{AskError, Probe, ProbeOf, Probed, Question, topology};
use fanfare_domain::{EventId, TenantId, Webhook, WebhookId};
use fanfare_runtime::{Problem, now_ms};
use fanfare_store::AttemptEntry;
use serde_json::{Map, Value};

use crate::{app::Api, attempt_view, auth::Caller, examples};

/// Requests that one tenant may have under way at once.
const PER_TENANT: usize = 4;

/// A request that was made.
pub(crate) struct Asked {
    pub(crate) entry: AttemptEntry,
    /// The body that it had; `None` where the catalog makes none of this event.
    pub(crate) body: Option<String>,
}

/// Has an example sent as `webhook`, in the form that `of` says. Problems: a request to it is under way already, nobody is
/// there to make it.
pub(crate) async fn ask<N>(
    api: &Api,
    caller: &Caller<N>,
    webhook: &Webhook,
    of: ProbeOf,
    example: Map<String, Value>,
) -> Result<Asked, Problem> {
    let (tenant, catalog) = (caller.tenant(), &caller.catalog);
    let _turn = api.turns.take(tenant, &webhook.id).map_err(Problem::from)?;
    let id = EventId::new(now_ms(), rand::random());
    let event = examples::fresh(example, tenant, id, now_ms()).map_err(|why| {
        tracing::error!(catalog = catalog.name(), why, "a catalog's example makes no event");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the catalog's example makes no event: it is in the log")
    })?;
    let probe = Probe {
        tenant: tenant.clone(),
        webhook: webhook.id.clone(),
        of,
        event: event.json.clone(),
        id,
        shape: attempt_view::shape(catalog.digest(), webhook.payload),
    };
    api.broker_takes_messages()?;
    let question = Question {
        queue: topology::PROBES,
        id: id.to_string(),
        body: serde_json::to_vec(&probe).expect("a probe is ids, texts and an event that is JSON already"),
        now_ms: now_ms(),
        patience: api.ask_patience,
    };
    let answer = api.answers.ask(question).await.map_err(unanswered)?;
    let entry = read(api, &probe, &answer)?;
    let rendered = attempt_view::rendered(catalog, event.json.get().as_bytes(), webhook.payload.as_str());
    Ok(Asked { entry, body: rendered.as_ref().and_then(attempt_view::body).map(str::to_owned) })
}

fn unanswered(error: AskError) -> Problem {
    match error {
        AskError::NoAnswer => Problem::unavailable("no dispatcher has answered: is one running?"),
        AskError::NotPut(_) | AskError::NotTaken => Problem::unavailable(error.to_string()),
    }
}

fn read(api: &Api, probe: &Probe, answer: &[u8]) -> Result<AttemptEntry, Problem> {
    let odd = |why: String| {
        tracing::error!(why, "a dispatcher's answer is none that this version reads");
        Problem::unavailable("the dispatcher's answer cannot be read: it is of another version, or has other keys")
    };
    match serde_json::from_slice(answer).map_err(|error| odd(error.to_string()))? {
        Probed::Not => Err(Problem::unavailable("the dispatcher cannot make the request: its log says why")),
        Probed::Made(sealed) => {
            let entry = api.sealer.open(&probe.tenant, &probe.webhook, &sealed).map_err(|why| odd(why.to_string()))?;
            serde_json::from_str(&entry).map_err(|error| odd(error.to_string()))
        }
    }
}

/// The webhooks to which requests are under way, of this process.
#[derive(Default)]
pub(crate) struct Turns {
    under_way: Mutex<HashMap<TenantId, BTreeSet<WebhookId>>>,
}

/// Why it is not somebody's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Webhook,
    Tenant,
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Webhook => Self::new(
                StatusCode::CONFLICT,
                "a request to this webhook is under way, by a ping or by another save: wait for its answer",
            )
            .retry_after(1),
            Busy::Tenant => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("{PER_TENANT} pings and tests of yours are under way: wait for their answers"),
            )
            .retry_after(1),
        }
    }
}

impl Turns {
    fn take(self: &Arc<Self>, tenant: &TenantId, webhook: &WebhookId) -> Result<Turn, Busy> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = under_way.entry(tenant.clone()).or_default(); // never left empty: a place follows, or there are some
        if of_tenant.contains(webhook) {
            return Err(Busy::Webhook);
        }
        if of_tenant.len() >= PER_TENANT {
            return Err(Busy::Tenant);
        }
        of_tenant.insert(webhook.clone());
        Ok(Turn { turns: self.clone(), tenant: tenant.clone(), webhook: webhook.clone() })
    }
}

/// A place among the requests under way, until it is dropped.
struct Turn {
    turns: Arc<Turns>,
    tenant: TenantId,
    webhook: WebhookId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.turns.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_tenant) = under_way.get_mut(&self.tenant) {
            of_tenant.remove(&self.webhook);
            if of_tenant.is_empty() {
                under_way.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_gets_one_request_at_a_time_and_a_tenant_few() {
        let turns = Arc::new(Turns::default());
        let (acme, other): (TenantId, TenantId) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let webhook = |n: u8| WebhookId::from_bytes([n; 12]);
        let first = turns.take(&acme, &webhook(0)).unwrap();
        assert_eq!(turns.take(&acme, &webhook(0)).err(), Some(Busy::Webhook));
        let rest: Vec<Turn> = (1..4).map(|n| turns.take(&acme, &webhook(n)).unwrap()).collect();
        assert_eq!(turns.take(&acme, &webhook(4)).err(), Some(Busy::Tenant));
        let others = turns.take(&other, &webhook(4)).unwrap();
        drop(first);
        drop(turns.take(&acme, &webhook(4)).unwrap());
        drop((rest, others));
        assert!(turns.under_way.lock().unwrap().is_empty(), "who is done leaves nothing behind");
    }
}
