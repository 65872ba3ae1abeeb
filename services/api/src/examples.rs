//! Examples to send: what a webhook would get, made of what its catalog documents.

use fanfare_catalog::{Catalog, TriggerRule};
use fanfare_domain::{
    EventId, FieldError, TenantId,
    event::{Defaults, Event, EventError, Plain, is_reserved, parse_structured},
};
use fanfare_runtime::Problem;
use serde_json::{Map, Value, json};

use crate::problem::invalid;

/// An event of a type that somebody names.
pub(crate) fn of_type(catalog: &Catalog, kind: &str) -> Result<Map<String, Value>, Problem> {
    let documented = catalog.event_type(kind).and_then(|event_type| event_type.examples.first());
    match documented.and_then(|example| example.event.as_object()) {
        Some(event) => Ok(event.clone()),
        None if is_reserved(kind) => {
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

/// An event that a trigger stands for, where the catalog documents one.
pub(crate) fn of_trigger(catalog: &Catalog, trigger: &str) -> Option<Map<String, Value>> {
    let examples = || {
        let all = catalog.event_types().iter().flat_map(|event_type| &event_type.examples);
        all.filter_map(|example| example.event.as_object())
    };
    let documented = match catalog.trigger_rule(trigger) {
        Some(TriggerRule::Pattern { pattern, .. }) => {
            examples().find(|event| pattern.matches(&Value::Object((*event).clone())))
        }
        _ => examples().find(|event| event.get("type").is_some_and(|kind| kind == trigger)),
    };
    documented.cloned()
}

/// An event of a type that is not documented.
pub(crate) fn made_up(kind: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), json!(kind)), ("data".to_owned(), json!({}))])
}

/// An example as an event of this moment: published once more, it would be a new one.
pub(crate) fn fresh(
    mut example: Map<String, Value>,
    tenant: &TenantId,
    id: EventId,
    now_ms: u64,
) -> Result<Event, String> {
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
    use std::sync::Arc;

    use super::*;
    use fanfare_catalog::Catalogs;

    fn catalog(name: &str) -> Arc<Catalog> {
        Catalogs::builtin().get(name).unwrap().clone()
    }

    fn of_webhook(catalog: &Catalog, trigger: &str) -> Map<String, Value> {
        of_trigger(catalog, trigger).unwrap_or_else(|| made_up(trigger))
    }

    #[test]
    fn a_ping_sends_an_example_of_what_the_webhook_gets() {
        for (name, trigger, kind) in [
            ("standard", "order.shipped", "order.shipped"),
            ("standard", "*", "order.paid"),
            ("standard", "my.own", "my.own"),
            ("capturi", "LiveSummaryCreated", "LiveSummaryCreated"),
        ] {
            assert_eq!(of_webhook(&catalog(name), trigger)["type"], kind, "{name} {trigger}");
        }
    }

    #[test]
    fn a_type_that_is_named_must_be_one_of_the_catalogs() {
        assert_eq!(of_type(&catalog("standard"), "order.paid").unwrap()["subject"], "ord_1042");
        assert_eq!(of_type(&catalog("standard"), "my.own").unwrap()["data"], json!({}));
        for (name, kind) in [("standard", "fanfare.x"), ("standard", "*"), ("standard", ""), ("capturi", "my.own")] {
            assert!(of_type(&catalog(name), kind).is_err(), "{name} {kind}");
        }
    }

    #[test]
    fn each_ping_is_an_event_of_its_own() {
        let example = of_webhook(&catalog("standard"), "order.paid");
        let (tenant, id) = ("acme".parse().unwrap(), EventId::new(1_700_000_000_000, 7));
        let event = fresh(example, &tenant, id, 1_700_000_000_000).unwrap();
        assert_eq!((event.id, event.time_ms, event.source.as_str()), (id.to_string(), 1_700_000_000_000, "/shop"));
        let made_up = fresh(made_up("my.own"), &tenant, id, 5).unwrap();
        assert_eq!((made_up.kind.as_str(), made_up.source.as_str()), ("my.own", "/tenants/acme"));
    }
}
