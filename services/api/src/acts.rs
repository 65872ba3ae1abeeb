//! Acts on a delivery: make it due now, or cancel it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fanfare_bus::{DeliveryItem, EventItem, Route, Waiting};
use fanfare_domain::Webhook;
use fanfare_runtime::Problem;
use fanfare_store::{Acted, DeliveryDetail};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    app::{Api, nothing_here},
    auth::{Caller, Manage},
    deliveries::{find, view},
    problem,
    request::{At, MaybeJson},
};

/// A larger event stays in Redis, and its delivery goes without it (delivery.md, Broker objects).
const INLINE_BYTES: usize = 8 * 1024;
/// A confirm takes no longer from a broker that works.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn retry(
    State(api): State<Arc<Api>>,
    caller: Caller<Manage>,
    At(id): At<String>,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    body.finish()?;
    let detail = find(&api, &caller, &id).await?;
    let delivery = detail.view.id.clone();
    let webhook = caller.config.webhooks.get(&delivery.webhook).map(|stored| &stored.webhook);
    is_worth_a_try(webhook).map_err(|why| Problem::new(StatusCode::CONFLICT, why))?;
    api.broker_takes_messages()?;
    let acted = api.tenants.hasten(caller.tenant(), &delivery).await.map_err(problem::store)?;
    let next = done(acted)?;
    let item = item(&caller, &detail, &next);
    let published = api.bus.publisher().publish(Route::deliveries(), &item);
    // Without a confirm the delivery stays marked as having no message: the next retry, or the sweeper, publishes it again.
    match tokio::time::timeout(CONFIRMED_WITHIN, published).await {
        Ok(confirmed) => confirmed.map_err(problem::broker)?,
        Err(_) => return Err(Problem::unavailable("the broker does not confirm")),
    }
    api.deliveries
        .scheduled(caller.tenant(), &delivery, next.attempt, next.epoch, None)
        .await
        .map_err(problem::store)?;
    accepted(&api, &caller, &id).await
}

pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller<Manage>,
    At(id): At<String>,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    body.finish()?;
    let delivery = find(&api, &caller, &id).await?.view.id;
    let acted = api.tenants.cancel(caller.tenant(), &delivery, api.retention_ms).await.map_err(problem::store)?;
    done(acted)?; // the message under way is stale now: whoever gets it acks it
    accepted(&api, &caller, &id).await
}

/// 202 with the delivery as it is now.
async fn accepted(api: &Api, caller: &Caller<Manage>, id: &str) -> Result<Response, Problem> {
    let now = find(api, caller, id).await?;
    Ok((StatusCode::ACCEPTED, Answer(view(&now.view))).into_response())
}

/// The attempt to come, and what its message says of it.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    epoch: u32,
    attempt: u32,
    shape: String,
    accepted_ms: u64,
}

/// Why a retry would only come back at once: what is switched off takes no deliveries.
fn is_worth_a_try(webhook: Option<&Webhook>) -> Result<(), &'static str> {
    match webhook {
        None => Err("its webhook is deleted"),
        Some(Webhook { disabled: Some(_), .. }) => Err("its webhook is disabled: enable it first"),
        Some(Webhook { active: false, .. }) => Err("its webhook is not active: activate it first"),
        Some(_) => Ok(()),
    }
}

fn done(acted: Acted) -> Result<Next, Problem> {
    let conflict = |why: String| Err(Problem::new(StatusCode::CONFLICT, why));
    match acted {
        Acted::Done { epoch, attempt, shape, accepted_ms } => Ok(Next { epoch, attempt, shape, accepted_ms }),
        Acted::Missing => Err(nothing_here()),
        Acted::Sending => conflict("an attempt is under way: wait for its outcome".to_owned()),
        Acted::Final(state) => {
            let state = match state.as_str() {
                "d" => "delivered",
                "f" => "failed",
                _ => "cancelled",
            };
            conflict(format!("it has ended: it is {state}"))
        }
    }
}

/// The message that drives the attempt to come.
fn item(caller: &Caller<Manage>, detail: &DeliveryDetail, next: &Next) -> EventItem {
    #[derive(Deserialize)]
    struct Traced {
        traceparent: Option<String>,
    }
    let id = &detail.view.id;
    let traced = serde_json::from_slice::<Traced>(&detail.event).ok();
    EventItem {
        tenant: caller.tenant().clone(),
        id: id.event,
        kind: detail.view.event_type.clone(),
        accepted: next.accepted_ms,
        config: caller.config.version,
        traceparent: traced.and_then(|traced| traced.traceparent),
        event: inline(&detail.event),
        deliveries: vec![DeliveryItem {
            webhook: id.webhook.clone(),
            replay: id.replay.clone(),
            attempt: next.attempt,
            epoch: next.epoch,
            shape: next.shape.clone(),
            waiting: Waiting::default(),
            ended: None,
        }],
    }
}

/// An event that is small enough to travel with its delivery.
fn inline(event: &[u8]) -> Option<Box<RawValue>> {
    if event.len() > INLINE_BYTES { None } else { serde_json::from_slice(event).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_has_ended_or_is_under_way_is_a_conflict() {
        for (acted, status) in [
            (Acted::Missing, StatusCode::NOT_FOUND),
            (Acted::Sending, StatusCode::CONFLICT),
            (Acted::Final("d".into()), StatusCode::CONFLICT),
        ] {
            assert_eq!(done(acted.clone()).unwrap_err().status(), status, "{acted:?}");
        }
        let acted = Acted::Done { epoch: 2, attempt: 3, shape: "a:full".into(), accepted_ms: 4 };
        assert_eq!(done(acted).unwrap(), Next { epoch: 2, attempt: 3, shape: "a:full".into(), accepted_ms: 4 });
    }

    #[test]
    fn what_is_switched_off_takes_no_retries() {
        let webhook = |active: bool, disabled: Value| -> Webhook {
            serde_json::from_value(json!({
                "id": "5ceec43ce1b5b412ba9d0e73", "target": "https://example.com/", "method": "POST", "headers": [],
                "triggers": ["t"], "payload": "full", "active": active, "disabled": disabled, "revision": 1, "createdAt": 1,
                "updatedAt": 1,
            }))
            .unwrap()
        };
        assert!(is_worth_a_try(Some(&webhook(true, Value::Null))).is_ok());
        assert!(is_worth_a_try(Some(&webhook(false, Value::Null))).is_err());
        assert!(is_worth_a_try(Some(&webhook(true, json!({ "at": 1, "reason": "gone" })))).is_err());
        assert!(is_worth_a_try(None).is_err());
    }

    #[test]
    fn a_large_event_stays_where_it_is() {
        assert_eq!(inline(br#"{"n":1.50}"#).unwrap().get(), r#"{"n":1.50}"#);
        assert!(inline(format!("\"{}\"", "a".repeat(INLINE_BYTES)).as_bytes()).is_none());
        assert!(inline(b"").is_none(), "an event that is gone");
    }
}
