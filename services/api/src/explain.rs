//! Why a webhook got an event, or did not; and what a filter would do. Judged by the rules that fan out.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fanfare_catalog::{Catalog, TriggerRule};
use fanfare_domain::{Part, Pattern, Webhook, WebhookId, event::is_reserved, webhook};
use fanfare_runtime::Problem;
use fanfare_store::{DeliveryView, EventView, State as DeliveryState};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::Api,
    auth::{Caller, Read, ReadOrManage},
    deliveries, events,
    problem::invalid,
    request::{At, Json},
};

/// Events that one filter is tried on at most.
const MAX_EVENTS: usize = 50;

/// What triggers and a filter say of an event.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Wanted,
    NoTrigger,
    Filter(Vec<Part>),
}

/// `triggers`: `None` where any event will do.
fn judge(catalog: &Catalog, triggers: Option<&[String]>, filter: Option<&Value>, event: &Value) -> Judged {
    // Fanfare's own events are asked for by name: no pattern stands for them.
    let is_own = event["type"].as_str().is_some_and(is_reserved);
    let stands_for_it = |trigger: &String| match catalog.trigger_rule(trigger) {
        Some(TriggerRule::EventType(kind)) => event["type"] == kind,
        Some(TriggerRule::Pattern { pattern, .. }) => !is_own && pattern.matches(event),
        None => false,
    };
    if triggers.is_some_and(|triggers| !triggers.iter().any(stands_for_it)) {
        return Judged::NoTrigger;
    }
    match filter {
        // One that does not compile any more is passed over by the fan-out, too.
        Some(filter) if Pattern::parse(filter).is_ok_and(|pattern| !pattern.matches(event)) => {
            Judged::Filter(Part::all(filter, event))
        }
        _ => Judged::Wanted,
    }
}

/// Why an event has a delivery for a webhook, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    /// It matched; its delivery says the rest.
    Matched,
    /// It matched, and is held: its tenant has switched the webhook off.
    Inactive,
    /// It matched, and is held: Fanfare has disabled the webhook.
    Disabled,
    /// None of the triggers stands for it.
    NoTrigger,
    /// The filter does not let it through.
    Filter,
    /// It would match now: the webhook was made or changed after it.
    Later,
    /// Its webhooks are not found yet.
    NotYet,
    /// The event is gone, and what it was with it.
    Gone,
}

impl Why {
    fn detail(self) -> &'static str {
        match self {
            Self::Matched => "it matched: see its delivery",
            Self::Inactive => "it matched and is held: the webhook is not active",
            Self::Disabled => "it matched and is held: the webhook is disabled",
            Self::NoTrigger => "none of the webhook's triggers stands for it",
            Self::Filter => "the webhook's filter does not let it through: see the parts that do not hold",
            Self::Later => "it would match now: the webhook was made or changed after it was accepted",
            Self::NotYet => "its webhooks are not found yet: ask again",
            Self::Gone => "the event is gone: what it held cannot be judged any more",
        }
    }
}

fn why(
    webhook: &Webhook,
    delivery: Option<DeliveryState>,
    is_fanned_out: FannedOut,
    judge: impl FnOnce() -> Option<Judged>,
) -> (Why, Vec<Part>) {
    let why = match (delivery, is_fanned_out) {
        (Some(DeliveryState::Held), _) if webhook.disabled.is_some() => Why::Disabled,
        (Some(DeliveryState::Held), _) if !webhook.active => Why::Inactive,
        (Some(_), _) => Why::Matched,
        (None, FannedOut::NotYet) => Why::NotYet,
        (None, FannedOut::Yes) => match judge() {
            None => Why::Gone,
            Some(Judged::Wanted) => Why::Later,
            Some(Judged::NoTrigger) => Why::NoTrigger,
            Some(Judged::Filter(parts)) => return (Why::Filter, parts),
        },
    };
    (why, Vec::new())
}

/// Whether an event's webhooks are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FannedOut {
    Yes,
    NotYet,
}

/// A webhook, as explained.
#[derive(Debug, Serialize)]
struct Explained {
    webhook: WebhookId,
    name: Option<String>,
    why: Why,
    detail: &'static str,
    parts: Vec<Part>,
    delivery: Option<deliveries::View>,
}

pub(crate) async fn event(
    State(api): State<Arc<Api>>,
    caller: Caller<Read>,
    At(id): At<String>,
) -> Result<Response, Problem> {
    let event = events::find(&api, &caller, &id).await?;
    let id = event.id;
    // Patterns may take their time: the other requests do not wait for them.
    let explained = tokio::task::spawn_blocking(move || explained(&caller, &event)).await.map_err(|error| {
        tracing::error!(%error, "explaining an event failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a mistake of ours: it is in the log")
    })?;
    Ok(Answer(json!({ "event": id, "webhooks": explained })).into_response())
}

fn explained(caller: &Caller<Read>, event: &EventView) -> Vec<Explained> {
    let parsed: Option<Value> = serde_json::from_slice(&event.json).ok();
    let is_fanned_out = if event.fanned_out { FannedOut::Yes } else { FannedOut::NotYet };
    let one = |webhook: &Webhook| {
        let delivery: Option<&DeliveryView> = event.deliveries.iter().find(|it| it.id.webhook == webhook.id);
        let (why, parts) = why(webhook, delivery.map(|it| it.state), is_fanned_out, || {
            Some(judge(&caller.catalog, Some(&webhook.triggers), webhook.filter.as_ref(), parsed.as_ref()?))
        });
        let (webhook, name) = (webhook.id.clone(), webhook.name.clone());
        Explained { webhook, name, why, detail: why.detail(), parts, delivery: delivery.map(deliveries::view) }
    };
    caller.config.webhooks.values().map(|stored| one(&stored.webhook)).collect()
}

/// An event that a filter was tried on.
#[derive(Debug, Serialize)]
struct Tried {
    event: Value,
    matches: bool,
    detail: &'static str,
    parts: Vec<Part>,
}

/// `POST /v1/filters/test`: tries a filter, on the events given or on the catalog's examples. Nothing is stored.
pub(crate) async fn filter(caller: Caller<ReadOrManage>, Json(mut body): Json) -> Result<Response, Problem> {
    let mut errors = Vec::new();
    let filter = body.optional("filter", |value| Ok(webhook::filter(value)));
    let filter = filter.and_then(|filter| filter.map_err(|wrong| errors.extend(wrong)).ok().flatten());
    let triggers = body.optional("triggers", |value| triggers(&caller.catalog, value));
    let events = body.optional("events", events);
    body.finish()?;
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    let events = events.unwrap_or_else(|| examples(&caller.catalog));
    let tried = tokio::task::spawn_blocking(move || {
        let one = |event| tried(&caller.catalog, triggers.as_deref(), filter.as_ref(), event);
        events.into_iter().map(one).collect::<Vec<_>>()
    });
    let tried = tried.await.map_err(|error| {
        tracing::error!(%error, "trying a filter failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a mistake of ours: it is in the log")
    })?;
    let matched = tried.iter().filter(|one| one.matches).count();
    Ok(Answer(json!({ "total": tried.len(), "matched": matched, "results": tried })).into_response())
}

fn tried(catalog: &Catalog, triggers: Option<&[String]>, filter: Option<&Value>, event: Value) -> Tried {
    let (matches, detail, parts) = match judge(catalog, triggers, filter, &event) {
        Judged::Wanted => (true, "it matches", Vec::new()),
        Judged::NoTrigger => (false, "none of the triggers stands for it", Vec::new()),
        Judged::Filter(parts) if parts.iter().all(|part| part.holds) => {
            (false, "every part holds, but not together: in different elements of an array", parts)
        }
        Judged::Filter(parts) => (false, "the filter does not let it through: see the parts that do not hold", parts),
    };
    Tried { event, matches, detail, parts }
}

fn triggers(catalog: &Catalog, value: &Value) -> Result<Vec<String>, String> {
    let names: Option<Vec<String>> =
        value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    let names = names.filter(|names| !names.is_empty()).ok_or("must be a list of trigger names")?;
    match names.iter().find(|name| !catalog.knows_trigger(name)) {
        None => Ok(names),
        Some(name) => {
            let shown: String = name.chars().take(64).collect();
            Err(format!("no trigger `{shown}` in this catalog: `GET /v1/triggers` lists them"))
        }
    }
}

fn events(value: &Value) -> Result<Vec<Value>, String> {
    match value.as_array() {
        Some(events) if events.len() > MAX_EVENTS => Err(format!("must be at most {MAX_EVENTS} events")),
        Some(events) if events.iter().all(Value::is_object) => Ok(events.clone()),
        _ => Err("must be a list of events, each an object".to_owned()),
    }
}

fn examples(catalog: &Catalog) -> Vec<Value> {
    let all = catalog.event_types().iter().flat_map(|event_type| &event_type.examples);
    all.take(MAX_EVENTS).map(|example| example.event.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_catalog::Catalogs;
    use fanfare_domain::DisableReason;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_webhook_wants_what_a_trigger_stands_for_and_its_filter_lets_through() {
        let catalogs = Catalogs::builtin();
        let catalog = catalogs.get("standard").unwrap();
        let event = json!({ "type": "order.paid", "data": { "total": 12 } });
        let over = |limit: u32| json!({ "data": { "total": [{ "numeric": [">", limit] }] } });
        for (triggers, filter, expected) in [
            (&["order.paid"][..], None, "wanted"),
            (&["order.sent", "*"], None, "wanted"),
            (&["order.sent"], None, "no trigger"),
            (&["order.sent"], Some(over(100)), "no trigger"),
            (&["order.paid"], Some(over(10)), "wanted"),
            (&["order.paid"], Some(over(100)), "filter data.total"),
        ] {
            let told = match judge(catalog, Some(&names(triggers)), filter.as_ref(), &event) {
                Judged::Wanted => "wanted".to_owned(),
                Judged::NoTrigger => "no trigger".to_owned(),
                Judged::Filter(parts) => format!("filter {}", parts[0].path),
            };
            assert_eq!(told, expected, "{triggers:?} {filter:?}");
        }
        let own = json!({ "type": "fanfare.webhook.disabled" });
        assert_eq!(
            judge(catalog, Some(&names(&["*"])), None, &own),
            Judged::NoTrigger,
            "no pattern stands for our own"
        );
    }

    #[test]
    fn what_became_of_it_goes_before_what_would_become_of_it_now() {
        let webhook = |active: bool, disabled: bool| -> Webhook {
            let disabled = if disabled { json!({ "at": 1, "reason": DisableReason::Gone }) } else { Value::Null };
            serde_json::from_value(json!({
                "id": "5ceec43ce1b5b412ba9d0e73", "target": "https://example.com/", "method": "POST", "headers": [],
                "triggers": ["t"], "payload": "full", "active": active, "disabled": disabled, "revision": 1, "createdAt": 1,
                "updatedAt": 1,
            }))
            .unwrap()
        };
        let (on, off, disabled) = (webhook(true, false), webhook(false, false), webhook(true, true));
        use DeliveryState::{Delivered, Held};
        for (webhook, delivery, is_fanned_out, judged, expected) in [
            (&on, Some(Delivered), FannedOut::Yes, Some(Judged::NoTrigger), Why::Matched),
            (&off, Some(Held), FannedOut::Yes, None, Why::Inactive),
            (&disabled, Some(Held), FannedOut::Yes, None, Why::Disabled),
            (&on, Some(Held), FannedOut::Yes, None, Why::Matched),
            (&off, Some(Delivered), FannedOut::Yes, None, Why::Matched),
            (&on, None, FannedOut::NotYet, Some(Judged::Wanted), Why::NotYet),
            (&on, None, FannedOut::Yes, Some(Judged::Wanted), Why::Later),
            (&on, None, FannedOut::Yes, Some(Judged::NoTrigger), Why::NoTrigger),
            (&on, None, FannedOut::Yes, Some(Judged::Filter(Vec::new())), Why::Filter),
            (&on, None, FannedOut::Yes, None, Why::Gone),
        ] {
            let shown = format!("{delivery:?} {is_fanned_out:?} {judged:?}");
            assert_eq!(why(webhook, delivery, is_fanned_out, || judged).0, expected, "{shown}");
        }
    }
}
