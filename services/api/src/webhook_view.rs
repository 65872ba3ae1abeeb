//! A webhook as its tenant sees it: the fields that its catalog shows, in the catalog's order.

use fanfare_domain::{Webhook, span::rfc3339};
use serde_json::{Map, Value, json};

/// The version of what webhooks receive; there is one.
const VERSION: &str = "v1";

/// The webhook in JSON. `secret`: `None` where it cannot be opened.
pub(crate) fn view(webhook: &Webhook, secret: Option<&str>, shown: &[String]) -> Map<String, Value> {
    shown.iter().map(|field| (field.clone(), value(field, webhook, secret))).collect()
}

fn value(field: &str, webhook: &Webhook, secret: Option<&str>) -> Value {
    match field {
        "id" => json!(webhook.id),
        "name" => json!(webhook.name),
        "description" => json!(webhook.description),
        "target" => json!(webhook.target.as_str()),
        "method" => json!(webhook.method),
        "headers" => {
            webhook.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into()
        }
        "triggers" => json!(webhook.triggers),
        "filter" => json!(webhook.filter),
        "payload" => json!(webhook.payload),
        "active" => json!(webhook.active),
        "secret" => json!(secret),
        "version" => json!(VERSION),
        "notifyEmail" => json!(webhook.notify_email),
        "retrySchedule" => json!(webhook.retry_schedule),
        "rateLimit" => json!(webhook.rate_limit),
        "maxInFlight" => json!(webhook.max_in_flight),
        "disabled" => match &webhook.disabled {
            Some(disabled) => json!({ "at": rfc3339(disabled.at), "reason": disabled.reason }),
            None => Value::Null,
        },
        "revision" => json!(webhook.revision),
        "createdAt" => json!(rfc3339(webhook.created_at)),
        "updatedAt" => json!(rfc3339(webhook.updated_at)),
        _ => Value::Null, // a catalog shows only the fields above
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_domain::{
        DisableReason, TargetRules,
        webhook::{Disabled, READ_ONLY, Rules, WRITABLE},
    };

    fn webhook(body: &Value) -> Webhook {
        let (settable, targets) = (WRITABLE.map(str::to_owned), TargetRules::default());
        let rules = Rules {
            settable: &settable,
            knows_trigger: &|_| true,
            has_payload: &|_| true,
            secret_header: None,
            targets: &targets,
        };
        let id = "5ceec43ce1b5b412ba9d0e73".parse().unwrap();
        Webhook::create(id, body.as_object().unwrap(), 1_559_133_676_000, &rules).unwrap()
    }

    #[test]
    fn structurelys_eight_fields_are_as_documented() {
        let shown = ["id", "name", "target", "secret", "version", "triggers", "updatedAt", "createdAt"];
        let webhook = webhook(&json!({
            "name": "My Webhook", "target": "https://www.example.com/webhooks/endpoint",
            "triggers": ["conversation:updated", "response:created"],
        }));
        let secret = "nLjs7uu5AvQfTjqXpXHnSOfj0h8bvc0w0eeZNWgFR1pJo9Gb";
        let view = view(&webhook, Some(secret), &shown.map(str::to_owned));
        let documented = r#"{"id":"5ceec43ce1b5b412ba9d0e73","name":"My Webhook","target":"https://www.example.com/webhooks/endpoint","secret":"nLjs7uu5AvQfTjqXpXHnSOfj0h8bvc0w0eeZNWgFR1pJo9Gb","version":"v1","triggers":["conversation:updated","response:created"],"updatedAt":"2019-05-29T12:41:16.000Z","createdAt":"2019-05-29T12:41:16.000Z"}"#;
        assert_eq!(Value::Object(view).to_string(), documented);
    }

    #[test]
    fn what_was_written_is_shown_as_it_was_written() {
        let written = json!({
            "name": null, "description": "d", "target": "https://example.com?q=%2F", "method": "PATCH",
            "headers": { "X-B": "2", "X-A": "1" }, "triggers": ["t"], "filter": { "data": { "n": [{ "numeric": [">", 1.5] }] } },
            "payload": "identity", "active": false, "notifyEmail": "a@example.com", "retrySchedule": ["5s", "2h"],
            "rateLimit": 5, "maxInFlight": 7,
        });
        let mut webhook = webhook(&written);
        webhook.disabled = Some(Disabled { at: 0, reason: DisableReason::Gone });
        let all: Vec<String> = WRITABLE.iter().chain(&READ_ONLY).map(|field| (*field).to_owned()).collect();
        let view = view(&webhook, None, &all);
        for (field, value) in written.as_object().unwrap() {
            assert_eq!(&view[field], value, "{field}");
        }
        assert_eq!(view["disabled"], json!({ "at": "1970-01-01T00:00:00.000Z", "reason": "gone" }));
        assert_eq!((&view["secret"], &view["revision"]), (&Value::Null, &json!(1)));
        assert_eq!(view["headers"].to_string(), r#"{"X-B":"2","X-A":"1"}"#);
    }
}
