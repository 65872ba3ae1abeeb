//! What comes in and goes out.

use fanfare_domain::webhook::{READ_ONLY, WRITABLE};
use serde_json::{Map, Value, json};

/// A schema by its name.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// All of them, by name.
pub(super) fn all() -> Value {
    let schemas = [
        ("Problem", problem()),
        (
            "FieldError",
            object(&[
                ("field", text("Its path: `triggers[0]`, `filter.data.total`.")),
                ("message", text("What it must be.")),
            ]),
        ),
        ("Metadata", metadata()),
        ("Webhook", webhook()),
        ("NewWebhook", new_webhook()),
        ("WebhookChange", written(&[])),
        ("EventType", event_type()),
        ("Example", example()),
        ("Trigger", trigger()),
        ("DeliveryStatus", json!({ "enum": ["pending", "held", "delivered", "failed", "cancelled"] })),
        ("Delivery", object(&delivery())),
        (
            "DeliveryWithAttempts",
            object(&[delivery(), vec![("attempts", list("Attempt", "In their order."))]].concat()),
        ),
        ("Attempt", attempt()),
        ("Event", object(&event())),
        ("EventWithDeliveries", event_with_deliveries()),
        ("Explained", explained()),
        ("FilterPart", filter_part()),
        ("FilterTest", filter_test()),
        ("FilterTried", filter_tried()),
        ("Tenant", tenant()),
        ("NewTenant", new_tenant()),
        ("TenantChange", tenant_change()),
        ("Scope", json!({ "enum": ["publish", "manage", "read"] })),
        ("Key", object(&key())),
        ("MadeKey", object(&[key(), vec![("key", text("The key itself: keep it, it is not shown again."))]].concat())),
        (
            "NewKey",
            new_key(json!({ "scopes": {
            "type": ["array", "null"], "items": reference("Scope"), "minItems": 1, "uniqueItems": true,
            "description": "What it opens; all where none are named.",
        } })),
        ),
        ("NewPublishKey", new_key(json!({}))),
    ];
    Value::Object(schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect())
}

type Fields = Vec<(&'static str, Value)>;

/// An object whose fields are all there.
fn object(fields: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "required": names, "properties": properties })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn text_or_null(description: &str) -> Value {
    json!({ "type": ["string", "null"], "description": description })
}

fn whole(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn date(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

fn date_or_null(description: &str) -> Value {
    json!({ "type": ["string", "null"], "format": "date-time", "description": description })
}

fn list(item: &str, description: &str) -> Value {
    json!({ "type": "array", "items": reference(item), "description": description })
}

fn headers(description: &str) -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": description })
}

fn problem() -> Value {
    let mut schema = object(&[
        ("type", text("`about:blank`: the title is the status's own.")),
        ("title", text("The status in words.")),
        ("status", json!({ "type": "integer", "minimum": 400, "maximum": 599 })),
        ("detail", text("What was wrong and what to do, for people.")),
    ]);
    schema["properties"]["errors"] = list("FieldError", "Each field that is wrong, up to 20.");
    schema["description"] = json!("RFC 9457.");
    schema
}

fn metadata() -> Value {
    object(&[
        ("collection", text("What the list is called.")),
        ("limit", whole("How many were asked for.")),
        ("offset", whole("How many were skipped.")),
        ("total", whole("How many match.")),
    ])
}

/// A webhook's field as it is shown, and as it is written where it can be.
fn webhook_field(field: &str) -> Value {
    match field {
        "id" => json!({ "type": "string", "pattern": "^[0-9a-f]{24}$" }),
        "name" => json!({ "type": ["string", "null"], "maxLength": 256 }),
        "description" => json!({ "type": ["string", "null"], "maxLength": 4_096 }),
        "target" => json!({ "type": "string", "format": "uri", "description":
            "Where deliveries go: http or https, at an address that is public or that the operator allows. Kept byte for byte." }),
        "method" => json!({ "enum": ["POST", "PUT", "PATCH", "DELETE"], "default": "POST" }),
        "headers" => {
            let mut schema = headers("Headers of its requests beside Fanfare's own, which they may not replace.");
            schema["maxProperties"] = json!(32);
            schema
        }
        "triggers" => {
            json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 100, "uniqueItems": true,
            "description": "What it subscribes to: `GET /v1/triggers` lists them." })
        }
        "filter" => json!({ "type": ["object", "null"],
            "description": "An event pattern that narrows the triggers, as in Amazon EventBridge, over the event's attributes and `data`." }),
        "payload" => json!({ "enum": ["full", "identity"], "default": "full",
            "description": "All of the event, or only what it is about." }),
        "active" => {
            json!({ "type": "boolean", "default": true, "description": "Where false, its deliveries are held." })
        }
        "secret" => json!({ "type": ["string", "null"], "description": "Signs its requests (Standard Webhooks)." }),
        "version" => json!({ "const": "v1" }),
        "notifyEmail" => {
            json!({ "type": ["string", "null"], "maxLength": 254, "description": "Who hears of failures." })
        }
        "retrySchedule" => {
            json!({ "type": ["array", "null"], "items": { "type": "string", "examples": ["5s", "2h"] }, "maxItems": 20,
            "description": "The waits between attempts instead of the catalog's: each up to 7d, 14d in all." })
        }
        "rateLimit" => {
            json!({ "type": ["integer", "null"], "minimum": 1, "maximum": 100_000, "description": "Attempts per second." })
        }
        "maxInFlight" => {
            json!({ "type": ["integer", "null"], "minimum": 1, "maximum": 1_000, "description": "Attempts at once." })
        }
        "disabled" => json!({
            "type": ["object", "null"], "required": ["at", "reason"],
            "properties": {
                "at": date("Since when."),
                "reason": { "enum": ["gone", "exhausted"], "description": "The receiver said so, or a delivery used up its retries." },
            },
            "description": "Where Fanfare has disabled it: its deliveries are held until it is enabled.",
        }),
        "revision" => json!({ "type": "integer", "minimum": 1, "description": "Counts its changes; also the `ETag`." }),
        "createdAt" => date("When it was made."),
        "updatedAt" => date("When it was last changed."),
        other => json!({ "description": other }),
    }
}

fn webhook() -> Value {
    let order = ["id"].into_iter().chain(WRITABLE).chain(READ_ONLY.into_iter().filter(|field| *field != "id"));
    let properties: Map<String, Value> = order
        .map(|field| {
            let mut schema = webhook_field(field);
            if READ_ONLY.contains(&field) {
                schema["readOnly"] = json!(true);
            }
            (field.to_owned(), schema)
        })
        .collect();
    json!({
        "type": "object", "required": ["id"], "properties": properties,
        "description": "The fields that the tenant's catalog shows, in the catalog's order.",
    })
}

/// A webhook as it is written.
fn written(required: &[&str]) -> Value {
    let may_be_reset = |field: &str| !["target", "triggers"].contains(&field);
    let properties: Map<String, Value> = WRITABLE
        .iter()
        .map(|field| {
            let schema = webhook_field(field);
            let takes_null = schema["type"].as_array().is_some() || !may_be_reset(field);
            let schema = if takes_null { schema } else { json!({ "anyOf": [schema, { "type": "null" }] }) };
            ((*field).to_owned(), schema)
        })
        .collect();
    let mut schema = json!({
        "type": "object", "properties": properties, "additionalProperties": false,
        "description": "The fields that the tenant's catalog lets it set; null: the default.",
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn new_webhook() -> Value {
    let mut schema = written(&["target", "triggers"]);
    schema["examples"] = json!([{ "target": "https://example.com/hook", "triggers": ["order.paid"] }]);
    schema
}

fn event_type() -> Value {
    let mut schema = object(&[
        ("name", text("Its CloudEvents `type`.")),
        ("description", text("What happened.")),
        ("examples", list("Example", "Events to publish, and what receivers get of them.")),
    ]);
    schema["properties"]["schema"] = json!({ "type": ["object", "boolean"], "description": "A JSON Schema of the whole event, attributes and `data`." });
    schema
}

fn example() -> Value {
    object(&[
        ("event", json!({ "type": "object", "description": "The event in plain form." })),
        ("body", json!({ "type": "object", "description": "The bodies that it becomes, by payload form." })),
    ])
}

fn trigger() -> Value {
    let mut schema = object(&[("name", text("Its name.")), ("description", text("When it triggers."))]);
    schema["properties"]["pattern"] =
        json!({ "type": "object", "description": "Its event pattern; none where it is the event type of its name." });
    schema["properties"]["requires"] = json!({
        "type": "array", "items": { "type": "string" }, "description": "The triggers that a webhook must have beside it.",
    });
    schema
}

fn delivery() -> Fields {
    vec![
        ("id", text("`<event>_<webhook>`; its requests' `webhook-id`.")),
        ("event", text("Fanfare's id of the event.")),
        ("eventType", text("The event's type.")),
        ("webhook", text("The webhook.")),
        ("status", reference("DeliveryStatus")),
        ("reason", text_or_null("Why it ended so or is held, a word.")),
        ("attemptCount", whole("Attempts made.")),
        ("sending", json!({ "type": "boolean", "description": "An attempt is under way." })),
        ("createdAt", date("When its event was accepted.")),
        ("endedAt", date_or_null("When it ended.")),
        ("nextAttemptAt", date_or_null("When its next attempt is due.")),
    ]
}

fn attempt() -> Value {
    let request = object(&[
        ("method", text("Its method.")),
        ("url", text("Its target, byte for byte.")),
        ("headers", headers("Its headers; secrets and the tenant's own are masked.")),
        ("body", text_or_null("Its body; null where the event or its catalog is gone.")),
    ]);
    let mut response = object(&[
        ("status", json!({ "type": "integer", "minimum": 100, "maximum": 999 })),
        ("headers", headers("Its headers.")),
        ("body", text("Its body, the first 16 KiB.")),
    ]);
    response["type"] = json!(["object", "null"]);
    response["description"] = json!("Null where no whole answer came.");
    object(&[
        ("number", json!({ "type": "integer", "minimum": 1 })),
        ("at", date("When it began.")),
        ("durationMs", whole("How long it took, in milliseconds.")),
        ("error", text_or_null("What went wrong where no answer came.")),
        ("request", request),
        ("response", response),
    ])
}

fn event() -> Fields {
    let counts = json!({
        "type": "object", "propertyNames": reference("DeliveryStatus"), "additionalProperties": { "type": "integer", "minimum": 1 },
        "description": "Its deliveries, by how they stand.",
    });
    vec![
        ("event", text("Fanfare's id of it, as in the answer to its publisher.")),
        ("id", text_or_null("Its own id; null, like the other attributes, where it is gone.")),
        ("source", text_or_null("Its source.")),
        ("type", text("Its type.")),
        ("subject", text_or_null("Its subject.")),
        ("time", text_or_null("When it happened.")),
        ("acceptedAt", date("When it was accepted.")),
        (
            "fannedOut",
            json!({ "type": "boolean", "description": "Its webhooks are found: without any, nobody wanted it." }),
        ),
        ("deliveryCounts", counts),
    ]
}

fn event_with_deliveries() -> Value {
    let published = json!({ "type": ["object", "null"], "description": "As it was published; null where it is gone." });
    let more = vec![("deliveries", list("Delivery", "One per webhook.")), ("cloudEvent", published)];
    object(&[event(), more].concat())
}

fn explained() -> Value {
    let reasons = ["matched", "inactive", "disabled", "no_trigger", "filter", "later", "not_yet", "gone"];
    object(&[
        ("webhook", text("The webhook.")),
        ("name", text_or_null("Its name.")),
        ("why", json!({ "enum": reasons })),
        ("detail", text("The reason in words.")),
        (
            "parts",
            list("FilterPart", "The parts of its filter, where that is the reason; those that do not hold come first."),
        ),
        ("delivery", json!({ "anyOf": [reference("Delivery"), { "type": "null" }] })),
    ])
}

fn filter_part() -> Value {
    object(&[
        ("path", text("Where it stands in the filter: `data.total`.")),
        ("wants", json!({ "description": "What stands there." })),
        (
            "found",
            json!({ "type": "array", "description": "What the event has there, the first ten; nothing: no such field." }),
        ),
        ("holds", json!({ "type": "boolean", "description": "Whether the event has one that will do." })),
    ])
}

fn filter_test() -> Value {
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "filter": webhook_field("filter"),
            "triggers": { "type": ["array", "null"], "items": { "type": "string" }, "minItems": 1,
                "description": "Any event will do where there are none." },
            "events": { "type": ["array", "null"], "items": { "type": "object" }, "maxItems": 50,
                "description": "As published; the catalog's examples where there are none." },
        },
    })
}

fn filter_tried() -> Value {
    object(&[
        ("event", json!({ "type": "object" })),
        ("matches", json!({ "type": "boolean" })),
        ("detail", text("The reason in words.")),
        ("parts", list("FilterPart", "Where it does not match for the filter; those that do not hold come first.")),
    ])
}

fn tenant_name() -> Value {
    json!({ "type": ["string", "null"], "maxLength": 200, "description": "What the operator calls it." })
}

fn tenant() -> Value {
    object(&[
        ("id", json!({ "type": "string", "pattern": "^[a-z0-9-]{1,63}$" })),
        ("name", tenant_name()),
        ("catalog", text("The catalog of its events.")),
        ("createdAt", date("When it was made.")),
        ("updatedAt", date("When it was last changed.")),
    ])
}

fn tenant_change() -> Value {
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "name": tenant_name(),
            "catalog": { "type": ["string", "null"], "default": "standard", "description": "One of those that are loaded." },
        },
    })
}

fn new_tenant() -> Value {
    let mut schema = tenant_change();
    schema["required"] = json!(["id"]);
    schema["properties"]["id"] = json!({ "type": "string", "pattern": "^[a-z0-9-]{1,63}$" });
    schema
}

fn key() -> Fields {
    vec![
        ("id", text("Its id: no part of the key.")),
        ("name", text_or_null("What it is for.")),
        ("scopes", list("Scope", "What it opens.")),
        ("createdAt", date("When it was made.")),
    ]
}

fn new_key(more: Value) -> Value {
    let mut properties =
        json!({ "name": { "type": ["string", "null"], "maxLength": 200, "description": "What it is for." } });
    if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
        properties.extend(more);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}
