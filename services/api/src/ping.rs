//! Ping: an example of what a webhook would get, sent now. The dispatcher makes the request, asked over the broker: only it
//! calls receivers.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fanfare_bus::{Probe, topology};
use fanfare_catalog::{Catalog, TriggerRule};
use fanfare_domain::{
    EventId, FieldError, TenantId,
    event::{Defaults, Event, EventError, Plain, parse_structured},
};
use fanfare_runtime::{Problem, now_ms};
use fanfare_store::AttemptEntry;
use serde_json::{Map, Value, json};

use crate::{
    app::Api,
    attempt_view,
    auth::Manage,
    problem::{self, invalid},
    request::{At, MaybeJson, text},
    webhooks::{Webhooks, find},
};

pub(crate) async fn send(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<Manage>,
    At(id): At<String>,
    MaybeJson(mut body): MaybeJson,
) -> Result<Response, Problem> {
    let webhook = &find(&caller.config, &id)?.webhook;
    let kind = body.optional("eventType", text(255));
    body.finish()?;
    let (tenant, catalog) = (caller.tenant(), &caller.catalog);
    let example = match &kind {
        Some(kind) => example_of_type(catalog, kind)?,
        None => example_of_trigger(catalog, webhook.triggers.first().map_or("", String::as_str)),
    };
    let id = EventId::new(now_ms(), rand::random());
    let event = fresh(example, tenant, id, now_ms()).map_err(|why| {
        tracing::error!(catalog = catalog.name(), why, "a catalog's example makes no event");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the catalog's example makes no event: it is in the log")
    })?;
    let probe = Probe {
        tenant: tenant.clone(),
        webhook: webhook.id.clone(),
        revision: webhook.revision,
        event: event.json.clone(),
        id,
        shape: attempt_view::shape(catalog.digest(), webhook.payload),
    };
    api.broker_takes_messages()?;
    let question = serde_json::to_vec(&probe).expect("a probe is ids and an event that is JSON already");
    let question_id = id.to_string();
    let asked = api.answers.ask(topology::PROBES, &question_id, question, api.ping_patience);
    // The question's own way to the broker has no end while that is away.
    let Ok(asked) = tokio::time::timeout(2 * api.ping_patience, asked).await else {
        return Err(Problem::unavailable("the broker does not take the question"));
    };
    let Some(answer) = asked.map_err(problem::broker)? else {
        return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "no dispatcher has answered: is one running?"));
    };
    let entry: AttemptEntry = serde_json::from_slice(&answer).map_err(|error| {
        tracing::error!(%error, "a dispatcher's answer to a ping is none that this version reads");
        Problem::new(StatusCode::BAD_GATEWAY, "the dispatcher's answer cannot be read: it is of another version")
    })?;
    let body = attempt_view::body(&api.catalogs, event.json.get().as_bytes(), &probe.shape);
    Ok(Answer(attempt_view::view(1, entry, body.as_deref())).into_response())
}

/// An event of a type that somebody names.
fn example_of_type(catalog: &Catalog, kind: &str) -> Result<Map<String, Value>, Problem> {
    let documented = catalog.event_type(kind).and_then(|event_type| event_type.examples.first());
    match documented.and_then(|example| example.event.as_object()) {
        Some(event) => Ok(event.clone()),
        None if kind.starts_with("fanfare.") => {
            Err(invalid(vec![FieldError::new("eventType", "types beginning `fanfare.` are reserved")]))
        }
        // Every event type is a trigger of its own name; in a catalog that takes any, so is what it does not list.
        None if matches!(catalog.trigger_rule(kind), Some(TriggerRule::EventType(_))) => Ok(made_up(kind)),
        None => Err(invalid(vec![FieldError::new(
            "eventType",
            "is no event type of this catalog: `GET /v1/event-types` lists them",
        )])),
    }
}

/// An event that a trigger stands for.
fn example_of_trigger(catalog: &Catalog, trigger: &str) -> Map<String, Value> {
    let examples =
        || catalog.event_types().iter().filter_map(|event_type| event_type.examples.first()?.event.as_object());
    let documented = match catalog.trigger_rule(trigger) {
        Some(TriggerRule::Pattern { pattern, .. }) => {
            examples().find(|event| pattern.matches(&Value::Object((*event).clone())))
        }
        _ => examples().find(|event| event.get("type").is_some_and(|kind| kind == trigger)),
    };
    documented.cloned().unwrap_or_else(|| made_up(trigger))
}

fn made_up(kind: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), json!(kind)), ("data".to_owned(), json!({}))])
}

/// An example as an event of this moment: published once more, it would be a new one.
fn fresh(mut example: Map<String, Value>, tenant: &TenantId, id: EventId, now_ms: u64) -> Result<Event, String> {
    for attribute in ["id", "time", "tenant"] {
        example.shift_remove(attribute);
    }
    let (id, source) = (id.to_string(), format!("/tenants/{tenant}"));
    let defaults = Defaults { now_ms, plain: Some(Plain { id: &id, source: Some(&source) }) };
    let parsed = parse_structured(Value::Object(example).to_string().as_bytes(), &defaults);
    parsed.map_err(|error| match error {
        EventError::NotJson(why) => why,
        EventError::Invalid(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_catalog::Catalogs;

    fn catalog(name: &str) -> Arc<Catalog> {
        Catalogs::builtin().get(name).unwrap().clone()
    }

    #[test]
    fn a_ping_sends_an_example_of_what_the_webhook_gets() {
        for (name, trigger, kind) in [
            ("standard", "order.shipped", "order.shipped"),
            ("standard", "*", "order.paid"),
            ("standard", "my.own", "my.own"),
            ("capturi", "LiveSummaryCreated", "LiveSummaryCreated"),
        ] {
            assert_eq!(example_of_trigger(&catalog(name), trigger)["type"], kind, "{name} {trigger}");
        }
    }

    #[test]
    fn a_type_that_is_named_must_be_one_of_the_catalogs() {
        assert_eq!(example_of_type(&catalog("standard"), "order.paid").unwrap()["subject"], "ord_1042");
        assert_eq!(example_of_type(&catalog("standard"), "my.own").unwrap()["data"], json!({}));
        for (name, kind) in [("standard", "fanfare.x"), ("standard", "*"), ("standard", ""), ("capturi", "my.own")] {
            assert!(example_of_type(&catalog(name), kind).is_err(), "{name} {kind}");
        }
    }

    #[test]
    fn each_ping_is_an_event_of_its_own() {
        let example = example_of_trigger(&catalog("standard"), "order.paid");
        let (tenant, id) = ("acme".parse().unwrap(), EventId::new(1_700_000_000_000, 7));
        let event = fresh(example, &tenant, id, 1_700_000_000_000).unwrap();
        assert_eq!((event.id, event.time_ms, event.source.as_str()), (id.to_string(), 1_700_000_000_000, "/shop"));
        let made_up = fresh(made_up("my.own"), &tenant, id, 5).unwrap();
        assert_eq!((made_up.kind.as_str(), made_up.source.as_str()), ("my.own", "/tenants/acme"));
    }
}
