//! The management API described for machines: OpenAPI 3.1 at `/openapi.json`, made once, here and in `schemas`. A test holds
//! it against the routes, a story against the answers.

mod operations; // each address with its methods
mod schemas; // what comes in and goes out

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};

use crate::app::Api;

/// The whole document. `collections`: the names of lists of webhooks, the contract's own among them.
pub(crate) fn document(collections: &BTreeSet<&str>) -> Value {
    let mut paths = Map::new();
    for operation in operations::all(collections) {
        let (path, method) = (operation.path.clone(), operation.method);
        paths.entry(path).or_insert_with(|| json!({}))[method] = operation.describe();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Fanfare management API",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Tenants, keys and webhooks, and what became of events and deliveries.",
            "description": "JSON in and out; whatever is not understood is refused by its name, as a problem (RFC 9457). \
                Times are RFC 3339 in UTC. The operator shows the admin token, a tenant one of its keys, either as \
                `Authorization: Bearer …` or as `X-Api-Authorization: …`. What is another tenant's answers exactly as what does \
                not exist. While the broker or Redis is away the answer is 503 with `Retry-After`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": operations::TAGS.map(|(name, description)| json!({ "name": name, "description": description })),
        "paths": paths,
        "components": {
            "securitySchemes": {
                "operatorToken": bearer("The operator's admin token."),
                "operatorTokenHeader": own_header("The operator's admin token."),
                "tenantKey": bearer("One of a tenant's keys."),
                "tenantKeyHeader": own_header("One of a tenant's keys."),
            },
            "responses": problems(),
            "schemas": schemas::all(),
        },
    })
}

fn bearer(description: &str) -> Value {
    json!({ "type": "http", "scheme": "bearer", "description": description })
}

fn own_header(description: &str) -> Value {
    json!({ "type": "apiKey", "in": "header", "name": "X-Api-Authorization", "description": description })
}

/// The problems that an operation can answer with, by status.
const PROBLEMS: [(u16, &str, &str); 13] = [
    (400, "NoJson", "The body is no JSON object."),
    (401, "NoKey", "No key or token, or none that is known."),
    (403, "Forbidden", "The key lacks the scope, or is of the wrong kind."),
    (404, "NotFound", "There is nothing at this address, or it is another tenant's."),
    (408, "TooSlow", "The body did not arrive within 30 s."),
    (409, "Conflict", "It is not in a state for this, or somebody else is changing it."),
    (412, "Stale", "It has changed since: its `ETag` is none of `If-Match`."),
    (413, "TooLarge", "The body is over 256 KiB."),
    (422, "Invalid", "A field or a parameter is wrong: `errors` names each."),
    (429, "TooMany", "Too many requests to targets at once: wait for their answers."),
    (500, "Ours", "A mistake of ours, or of the operator's: it is in the log."),
    (503, "Unavailable", "What is needed is away: try again."),
    (405, "Method", "The address does not take this method: `Allow` says which it takes."),
];

fn problems() -> Value {
    let one = |(status, name, description): (u16, &str, &str)| {
        let mut response = json!({
            "description": description,
            "content": { "application/problem+json": { "schema": schemas::reference("Problem") } },
        });
        let header = match status {
            405 => Some(("Allow", "The methods that the address takes.", json!({ "type": "string" }))),
            429 | 503 => Some(("Retry-After", "Seconds after which to try again.", json!({ "type": "integer" }))),
            _ => None,
        };
        if let Some((name, description, schema)) = header {
            response["headers"] = json!({ name: { "description": description, "schema": schema } });
        }
        (name.to_owned(), response)
    };
    Value::Object(PROBLEMS.into_iter().map(one).collect())
}

/// `GET /openapi.json`: for everyone.
pub(crate) async fn read(State(api): State<Arc<Api>>) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], api.openapi.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks;

    fn own() -> Value {
        document(&BTreeSet::from([webhooks::COLLECTION]))
    }

    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let collections = BTreeSet::from([webhooks::COLLECTION, "conversationWebhooks"]);
        let document = document(&collections);
        let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(described, crate::app::addresses(&collections));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = own();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "{}", found.len());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }

    #[test]
    fn no_two_operations_have_the_same_name() {
        let document = document(&BTreeSet::from([webhooks::COLLECTION, "conversationWebhooks"]));
        let mut names = BTreeSet::new();
        for path in document["paths"].as_object().unwrap().values() {
            for operation in path.as_object().unwrap().values() {
                assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
            }
        }
    }

    /// What outsiders build against: a change shows as a difference of `openapi.json` beside `Cargo.toml`.
    #[test]
    fn the_description_is_as_reviewed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let now = serde_json::to_string_pretty(&own()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let reviewed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            now == reviewed,
            "it differs from {path}: UPDATE_SNAPSHOTS=1 writes it anew, to be read as a difference"
        );
    }
}
