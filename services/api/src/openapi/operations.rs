//! Each address with its methods.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{PROBLEMS, schemas::reference};
use crate::webhooks;

/// The groups of operations, in reading order.
pub(super) const TAGS: [(&str, &str); 7] = [
    (
        "Webhooks",
        "A tenant's subscriptions: target, triggers and settings. A catalog may name the collection otherwise, show \
                  fewer fields and let fewer be set.",
    ),
    ("Catalog", "What the tenant's catalog has to subscribe to."),
    ("Deliveries", "One event for one webhook each, with its attempts."),
    ("Events", "What was accepted, also what nobody wanted."),
    ("Tenants", "The operator's customers."),
    ("Keys", "What tenants and upstream systems show."),
    ("About", "This description. For everyone, without a key."),
];

/// Who may ask.
#[derive(Debug, Clone, Copy)]
enum Who {
    /// The operator, with the admin token.
    Operator,
    /// A tenant, with a key that has one of these scopes.
    Tenant(&'static [&'static str]),
    /// Everyone.
    Everyone,
}

const READ: Who = Who::Tenant(&["read"]);
const MANAGE: Who = Who::Tenant(&["manage"]);
const READ_OR_MANAGE: Who = Who::Tenant(&["read", "manage"]);

/// What a request carries.
enum Body {
    None,
    Required(Value),
    Optional(Value),
}

/// One method of one address.
pub(super) struct Operation {
    pub(super) path: String,
    /// In lower case, as OpenAPI has it.
    pub(super) method: &'static str,
    id: String,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    who: Who,
    query: Vec<Value>,
    if_match: bool,
    body: Body,
    /// The status of a success, what it means, its body's schema and its headers.
    answer: (u16, &'static str, Option<Value>, Option<Value>),
    /// The problems that not every operation like it has.
    also: &'static [u16],
}

fn operation(
    method: &'static str,
    path: impl Into<String>,
    id: impl Into<String>,
    who: Who,
    tag: &'static str,
    summary: &'static str,
) -> Operation {
    Operation {
        path: path.into(),
        method,
        id: id.into(),
        tag,
        summary,
        description: "",
        who,
        query: Vec::new(),
        if_match: false,
        body: Body::None,
        answer: (200, "Done.", None, None),
        also: &[],
    }
}

impl Operation {
    fn says(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    fn asks(self, query: Vec<Value>) -> Self {
        Self { query, ..self }
    }

    fn takes(self, schema: &str) -> Self {
        Self { body: Body::Required(reference(schema)), ..self }
    }

    fn may_take(self, schema: Value) -> Self {
        Self { body: Body::Optional(schema), ..self }
    }

    fn at_a_revision(self) -> Self {
        Self { if_match: true, ..self }
    }

    fn answers(self, status: u16, meaning: &'static str, schema: Value) -> Self {
        Self { answer: (status, meaning, Some(schema), None), ..self }
    }

    fn answers_nothing(self) -> Self {
        Self { answer: (204, "Done; the body is empty.", None, None), ..self }
    }

    fn with_headers(self, names: &[&str]) -> Self {
        let one = |name: &&str| {
            let description = match *name {
                "ETag" => "The revision, for `If-Match`.",
                _ => "Where it is now.",
            };
            ((*name).to_owned(), json!({ "description": description, "schema": { "type": "string" } }))
        };
        let headers = Value::Object(names.iter().map(one).collect());
        let (status, meaning, schema, _) = self.answer;
        Self { answer: (status, meaning, schema, Some(headers)), ..self }
    }

    fn also(self, problems: &'static [u16]) -> Self {
        Self { also: problems, ..self }
    }

    /// As OpenAPI has it.
    pub(super) fn describe(self) -> Value {
        let (security, scopes) = match self.who {
            Who::Everyone => (json!([]), String::new()),
            Who::Operator => (json!([{ "operatorToken": [] }, { "operatorTokenHeader": [] }]), String::new()),
            Who::Tenant(scopes) => {
                let scopes = format!("Scope: `{}`.", scopes.join("` or `"));
                (json!([{ "tenantKey": [] }, { "tenantKeyHeader": [] }]), scopes)
            }
        };
        let description =
            [self.description, &scopes].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>();
        let mut described = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "description": description.join(" "),
            "security": security,
            "responses": self.responses(),
        });
        let mut parameters: Vec<Value> = variables(&self.path).map(path_parameter).collect();
        parameters.extend(self.query);
        if self.if_match {
            parameters.push(if_match());
        }
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        let body = match self.body {
            Body::None => None,
            Body::Required(schema) => Some((true, schema)),
            Body::Optional(schema) => Some((false, schema)),
        };
        if let Some((required, schema)) = body {
            described["requestBody"] =
                json!({ "required": required, "content": { "application/json": { "schema": schema } } });
        }
        described
    }

    fn responses(&self) -> Value {
        let (status, meaning, schema, headers) = &self.answer;
        let mut success = json!({ "description": meaning });
        if let Some(headers) = headers {
            success["headers"] = headers.clone();
        }
        if let Some(schema) = schema {
            success["content"] = json!({ "application/json": { "schema": schema } });
        }
        let mut responses = Map::from_iter([(status.to_string(), success)]);
        // Unknown parameters are wrong everywhere.
        let mut problems = BTreeSet::from([422, 500, 503]);
        problems.extend(self.also);
        if !matches!(self.who, Who::Everyone) {
            problems.extend([401, 403]);
        }
        if variables(&self.path).next().is_some() || self.tag == "Webhooks" {
            problems.insert(404);
        }
        if !matches!(self.body, Body::None) {
            problems.extend([400, 408, 413]);
        }
        if self.if_match {
            problems.extend([409, 412]);
        }
        for (status, name, _) in PROBLEMS.iter().filter(|(status, ..)| problems.contains(status)) {
            responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }));
        }
        Value::Object(responses)
    }
}

/// The variable parts of a path.
fn variables(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    let mut parameter = json!({ "name": name, "in": "query", "description": description });
    parameter["schema"] = schema;
    parameter
}

fn if_match() -> Value {
    json!({
        "name": "If-Match", "in": "header", "schema": { "type": "string" },
        "description": "The `ETag` of what was seen: where it has changed since, nothing is done and the answer is 412.",
    })
}

fn limit() -> Value {
    query("limit", "How many at most.", json!({ "type": "integer", "minimum": 1, "maximum": 100, "default": 10 }))
}

fn window() -> Vec<Value> {
    vec![limit(), query("offset", "How many to skip.", json!({ "type": "integer", "minimum": 0, "default": 0 }))]
}

fn page() -> Vec<Value> {
    vec![limit(), query("cursor", "`next` of the page before.", json!({ "type": "string" }))]
}

fn text() -> Value {
    json!({ "type": "string" })
}

/// A list under its own name.
fn listed(name: &str, item: &str) -> Value {
    json!({
        "type": "object", "required": [name],
        "properties": { name: { "type": "array", "items": reference(item) } },
    })
}

fn listed_with_metadata(name: &str, item: &str) -> Value {
    let mut schema = listed(name, item);
    schema["required"] = json!(["_metadata", name]);
    schema["properties"]["_metadata"] = reference("Metadata");
    schema
}

fn paged(name: &str, item: &str) -> Value {
    let mut schema = listed(name, item);
    schema["required"] = json!([name, "next"]);
    schema["properties"]["next"] = json!({
        "type": ["string", "null"],
        "description": "The cursor of the page that follows; a page may be short, also empty, while this is not null.",
    });
    schema
}

/// Every operation there is.
pub(super) fn all(collections: &BTreeSet<&str>) -> Vec<Operation> {
    let mut all = of_webhooks(webhooks::COLLECTION);
    all.extend(of_the_log());
    all.extend(of_the_operator());
    all.extend([
        operation("get", "/openapi.json", "readDescription", Who::Everyone, "About", "This description, OpenAPI 3.1")
            .answers(200, "The description.", json!({ "type": "object" })),
        operation("get", "/docs", "readDocs", Who::Everyone, "About", "This description, to be read by people"),
    ]);
    for name in collections.iter().filter(|name| **name != webhooks::COLLECTION) {
        all.extend(of_webhooks(name));
    }
    all
}

/// The operations on webhooks, where their list has this name.
fn of_webhooks(collection: &str) -> Vec<Operation> {
    let own = collection == webhooks::COLLECTION;
    let name = |id: &str| if own { id.to_owned() } else { format!("{id}_{collection}") };
    let (list, one) = (format!("/v1/{collection}"), format!("/v1/{collection}/{{id}}"));
    let at = |rest: &str| format!("{one}{rest}");
    let mut asked = window();
    asked.extend([
        query(
            "sort",
            "Fields in order of weight, with commas between them; `-` before a field turns its order round, `+` does not.",
            json!({ "type": "string", "default": "-createdAt", "examples": ["name,-createdAt"] }),
        ),
        query("name", "A part of the name, in any case.", text()),
        query("target", "The exact target.", text()),
        query("trigger", "A trigger that is among its own, exactly.", text()),
    ]);
    vec![
        operation("get", &list, name("listWebhooks"), READ_OR_MANAGE, "Webhooks", "List webhooks")
            .says("Those that match all that is asked for.")
            .asks(asked)
            .answers(200, "A part of the list.", listed_with_metadata(collection, "Webhook")),
        operation("post", &list, name("createWebhook"), MANAGE, "Webhooks", "Create a webhook")
            .says(
                "It is in force at once: an event published after the answer reaches it. A catalog may ask for a test: the \
                 target is then called with an example, and only its success saves.",
            )
            .takes("NewWebhook")
            .answers(201, "The webhook.", reference("Webhook"))
            .with_headers(&["ETag", "Location"])
            .also(&[409, 429]),
        operation("get", &one, name("readWebhook"), READ_OR_MANAGE, "Webhooks", "Read a webhook")
            .answers(200, "The webhook.", reference("Webhook"))
            .with_headers(&["ETag"]),
        operation("patch", &one, name("changeWebhook"), MANAGE, "Webhooks", "Change a webhook")
            .says(
                "The fields that are given; null resets one to its default. In force at once. Where the catalog asks for a \
                 test, only its success saves, and enables the webhook again.",
            )
            .at_a_revision()
            .takes("WebhookChange")
            .answers(200, "The webhook as it is now.", reference("Webhook"))
            .with_headers(&["ETag"])
            .also(&[429]),
        operation("delete", &one, name("deleteWebhook"), MANAGE, "Webhooks", "Delete a webhook")
            .says("Its pending deliveries are cancelled.")
            .at_a_revision()
            .answers_nothing(),
        operation("post", at("/ping"), name("pingWebhook"), MANAGE, "Webhooks", "Send an example now")
            .says("Answers with the attempt, whatever came of it. Nothing is retried.")
            .may_take(json!({
                "type": "object", "additionalProperties": false,
                "properties": { "eventType": {
                    "type": ["string", "null"], "description": "Of which type; else of the webhook's first trigger.",
                } },
            }))
            .answers(200, "The attempt.", reference("Attempt"))
            .also(&[409, 429]),
        operation("post", at("/secret/rotate"), name("rotateSecret"), MANAGE, "Webhooks", "Make a new secret")
            .says("The one before signs too, until the grace ends.")
            .at_a_revision()
            .may_take(json!({
                "type": "object", "additionalProperties": false,
                "properties": { "graceSeconds": {
                    "type": ["integer", "null"], "minimum": 0, "maximum": 604_800, "default": 86_400,
                    "description": "How long both sign.",
                } },
            }))
            .answers(200, "The webhook with its new secret.", reference("Webhook"))
            .with_headers(&["ETag"]),
        operation("post", at("/enable"), name("enableWebhook"), MANAGE, "Webhooks", "Enable a disabled webhook")
            .at_a_revision()
            .may_take(json!({
                "type": "object", "additionalProperties": false,
                "properties": { "held": {
                    "enum": ["deliver", "cancel", "keep", null], "default": "deliver",
                    "description": "What becomes of the deliveries that were held meanwhile.",
                } },
            }))
            .answers(200, "The webhook as it is now.", reference("Webhook"))
            .with_headers(&["ETag"])
            .also(&[429]),
    ]
}

/// What a tenant reads of its catalog and of the log, and does to deliveries.
fn of_the_log() -> Vec<Operation> {
    let mut deliveries = vec![
        query("webhook", "Of this webhook.", text()),
        query("event", "Of this event, by Fanfare's id.", text()),
        query("eventType", "Of events of this type.", text()),
        query("status", "That stand so.", reference("DeliveryStatus")),
        query("from", "Accepted at this time or later.", json!({ "type": "string", "format": "date-time" })),
        query("to", "Accepted before this time.", json!({ "type": "string", "format": "date-time" })),
    ];
    deliveries.extend(page());
    vec![
        operation("get", "/v1/event-types", "listEventTypes", READ_OR_MANAGE, "Catalog", "List event types").answers(
            200,
            "All of them, in the catalog's order.",
            listed("eventTypes", "EventType"),
        ),
        operation("get", "/v1/triggers", "listTriggers", READ_OR_MANAGE, "Catalog", "List triggers")
            .says("Where the catalog takes any event type, every type is a trigger of its own name, listed or not.")
            .answers(200, "All of them.", listed("triggers", "Trigger")),
        operation("get", "/v1/deliveries", "listDeliveries", READ, "Deliveries", "List deliveries, newest first")
            .says("Kept for the log's retention, 7 days unless the operator has set another, after their end.")
            .asks(deliveries)
            .answers(200, "A page.", paged("deliveries", "Delivery")),
        operation(
            "get",
            "/v1/deliveries/{id}",
            "readDelivery",
            READ,
            "Deliveries",
            "Read a delivery with its attempts",
        )
        .answers(200, "The delivery.", reference("DeliveryWithAttempts")),
        operation("post", "/v1/deliveries/{id}/retry", "retryDelivery", MANAGE, "Deliveries", "Attempt a delivery now")
            .says("One that is pending or held.")
            .may_take(json!({ "type": "object", "additionalProperties": false }))
            .answers(202, "The delivery as it is now.", reference("Delivery"))
            .also(&[409]),
        operation("post", "/v1/deliveries/{id}/cancel", "cancelDelivery", MANAGE, "Deliveries", "Cancel a delivery")
            .says("One that has not ended.")
            .may_take(json!({ "type": "object", "additionalProperties": false }))
            .answers(202, "The delivery as it is now.", reference("Delivery"))
            .also(&[409]),
        operation("get", "/v1/events", "listEvents", READ, "Events", "List events, newest first").asks(page()).answers(
            200,
            "A page.",
            paged("events", "Event"),
        ),
        operation("get", "/v1/events/{event}", "readEvent", READ, "Events", "Read an event with its deliveries")
            .answers(200, "The event.", reference("EventWithDeliveries")),
        operation(
            "get",
            "/v1/events/{event}/explain",
            "explainEvent",
            READ,
            "Events",
            "Why each webhook got it, or did not",
        )
        .says("For each of the tenant's webhooks as they are now.")
        .answers(200, "Each webhook with its reason.", {
            let mut schema = listed("webhooks", "Explained");
            schema["required"] = json!(["event", "webhooks"]);
            schema["properties"]["event"] = text();
            schema
        }),
        operation("post", "/v1/filters/test", "testFilter", READ_OR_MANAGE, "Events", "Try a filter")
            .says("On the events given, or on the catalog's examples. Nothing is stored.")
            .takes("FilterTest")
            .answers(200, "What it does to each.", {
                let mut schema = listed("results", "FilterTried");
                schema["required"] = json!(["total", "matched", "results"]);
                schema["properties"]["total"] = json!({ "type": "integer" });
                schema["properties"]["matched"] = json!({ "type": "integer" });
                schema
            }),
    ]
}

/// What the operator does.
fn of_the_operator() -> Vec<Operation> {
    let operator = |method, path: &'static str, id: &'static str, tag, summary| {
        operation(method, path, id, Who::Operator, tag, summary)
    };
    vec![
        operator("get", "/v1/tenants", "listTenants", "Tenants", "List tenants, newest first").asks(window()).answers(
            200,
            "A part of the list.",
            listed_with_metadata("tenants", "Tenant"),
        ),
        operator("post", "/v1/tenants", "createTenant", "Tenants", "Create a tenant")
            .takes("NewTenant")
            .answers(201, "The tenant.", reference("Tenant"))
            .with_headers(&["Location"])
            .also(&[409]),
        operator("get", "/v1/tenants/{id}", "readTenant", "Tenants", "Read a tenant").answers(
            200,
            "The tenant.",
            reference("Tenant"),
        ),
        operator("patch", "/v1/tenants/{id}", "changeTenant", "Tenants", "Change a tenant")
            .takes("TenantChange")
            .answers(200, "The tenant as it is now.", reference("Tenant")),
        operator("delete", "/v1/tenants/{id}", "deleteTenant", "Tenants", "Delete a tenant with its webhooks and keys")
            .says("Its pending deliveries are cancelled.")
            .answers_nothing(),
        operator("get", "/v1/tenants/{id}/keys", "listKeys", "Keys", "List a tenant's keys").answers(
            200,
            "All of them, without the keys themselves.",
            listed("keys", "Key"),
        ),
        operator("post", "/v1/tenants/{id}/keys", "createKey", "Keys", "Make a key for a tenant")
            .may_take(reference("NewKey"))
            .answers(201, "The key: it is shown this once and stored hashed.", reference("MadeKey")),
        operator("delete", "/v1/tenants/{id}/keys/{key}", "deleteKey", "Keys", "Delete a tenant's key")
            .answers_nothing(),
        operator("get", "/v1/keys", "listPublishKeys", "Keys", "List the operator's publish keys").answers(
            200,
            "All of them, without the keys themselves.",
            listed("keys", "Key"),
        ),
        operator("post", "/v1/keys", "createPublishKey", "Keys", "Make a key for publishing to any tenant")
            .may_take(reference("NewPublishKey"))
            .answers(201, "The key: it is shown this once and stored hashed.", reference("MadeKey")),
        operator("delete", "/v1/keys/{key}", "deletePublishKey", "Keys", "Delete one of the operator's publish keys")
            .answers_nothing(),
    ]
}
