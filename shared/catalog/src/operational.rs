//! What Fanfare itself tells tenants: event types and triggers that every catalog has, beside its own.
//!
//! Fanfare alone publishes them. They are sent as the catalog `standard` sends events, whatever the tenant's catalog: their
//! receiver is whoever runs the webhooks, not what the product's requests are for.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_domain::webhook::PayloadForm;
use serde_json::{Value, json};

use crate::{
    EventType, Example,
    format::{json_content_type, our_user_agent},
    render::Request,
    schema,
    template::Template,
};

/// The event types, in the order in which lists show them.
pub(crate) fn event_types() -> [EventType; 2] {
    let webhook = ("webhook", json!({ "description": "The webhook's id.", "type": "string" }));
    let reason = |of: &str| ("reason", json!({ "description": of, "type": "string" }));
    let at = json!({ "description": "Since when, in RFC 3339.", "type": "string", "format": "date-time" });
    let text = |of: &str| json!({ "description": of, "type": "string" });
    [
        event_type(
            "fanfare.webhook.disabled",
            "Fanfare has disabled a webhook: its deliveries are held until it is enabled again.",
            &[webhook.clone(), reason("Why, in a word: `exhausted`, `gone`."), ("at", at)],
            &json!({ "webhook": "5ceec43ce1b5b412ba9d0e73", "reason": "exhausted", "at": "2026-01-15T09:30:00.000Z" }),
        ),
        event_type(
            "fanfare.delivery.exhausted",
            "A delivery has failed for good: it was tried as often as its schedule says.",
            &[
                webhook,
                ("delivery", text("The delivery's id.")),
                ("event", text("Fanfare's own id of its event, a ULID.")),
                ("eventType", text("That event's type.")),
                ("attempts", json!({ "description": "How many were made.", "type": "integer", "minimum": 1 })),
                reason("Why it has failed, in a word: `exhausted` where its schedule is used up."),
            ],
            &json!({
                "webhook": "5ceec43ce1b5b412ba9d0e73",
                "delivery": "01KEZ7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73",
                "event": "01KEZ7M2Z8Q4R6T1W9X0Y5B3CD",
                "eventType": "order.paid",
                "attempts": 8,
                "reason": "exhausted",
            }),
        ),
    ]
}

/// The request of all of them: Standard Webhooks, as the catalog `standard` has it.
pub(crate) fn request() -> Request {
    let body =
        Template::compile("{type, timestamp: .time, data}").expect("the template above is right: a test renders it");
    Request {
        content_type: json_content_type(),
        user_agent: our_user_agent(),
        headers: Vec::new(),
        body: BTreeMap::from([(PayloadForm::Full, body)]),
    }
}

fn event_type(name: &str, description: &str, keys: &[(&str, Value)], data: &Value) -> EventType {
    let properties: serde_json::Map<String, Value> =
        keys.iter().map(|(key, schema)| ((*key).to_owned(), schema.clone())).collect();
    let required: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    let schema = json!({
        "type": "object",
        "required": ["data"],
        "properties": { "data": { "type": "object", "required": required, "properties": properties } },
    });
    let time = "2026-01-15T09:30:00.000Z";
    let body = json!({ "type": name, "timestamp": time, "data": data });
    let event = json!({ "type": name, "time": time, "data": data });
    EventType {
        name: name.to_owned(),
        description: description.to_owned(),
        validator: Some(Arc::new(schema::compile(&schema).expect("the schema above is right: a test compiles it"))),
        schema: Some(schema),
        examples: vec![Example { event, body: BTreeMap::from([(PayloadForm::Full, body)]) }],
    }
}
