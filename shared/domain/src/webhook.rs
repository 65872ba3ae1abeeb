//! A webhook: a tenant's target with its triggers and settings, and the rules for what may be written into it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    field::FieldError,
    header,
    id::WebhookId,
    pattern::Pattern,
    retry::{DeliveryPolicy, DisableReason},
    span::Span,
    target::{Target, TargetRules},
};

/// A tenant's subscription (contract.md, Management API). Its secrets are kept apart, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Its id, given when it was made.
    pub id: WebhookId,
    /// What its tenant calls it.
    pub name: Option<String>,
    /// What its tenant says of it.
    pub description: Option<String>,
    /// Where its deliveries go.
    pub target: Target,
    /// The HTTP method of its requests.
    pub method: Method,
    /// Headers its requests carry beside ours, in the tenant's order.
    pub headers: Vec<(String, String)>,
    /// What it subscribes to: at least one trigger's name.
    pub triggers: Vec<String>,
    /// The event pattern that narrows them, as written; it compiles.
    pub filter: Option<Value>,
    /// The form of its bodies.
    pub payload: PayloadForm,
    /// The tenant's wish.
    pub active: bool,
    /// Who hears of failures by mail.
    pub notify_email: Option<String>,
    /// The waits between its attempts, instead of its catalog's.
    pub retry_schedule: Option<Vec<Span>>,
    /// Attempts per second at most.
    pub rate_limit: Option<u32>,
    /// Attempts under way at most, over all dispatchers.
    pub max_in_flight: Option<u32>,
    /// Our act: no deliveries until it is enabled.
    pub disabled: Option<Disabled>,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Unix milliseconds.
    pub updated_at: u64,
}

/// Since when and why Fanfare makes no deliveries to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Unix milliseconds.
    pub at: u64,
    /// Why.
    pub reason: DisableReason,
}

/// The methods that carry a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Method {
    /// The method as HTTP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// How much of an event a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadForm {
    /// All of it.
    Full,
    /// What it is about, for the receiver to fetch.
    Identity,
}

impl PayloadForm {
    /// The form as written in a webhook and in a shape.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Identity => "identity",
        }
    }
}

/// The fields a tenant can write, where its catalog lets it.
pub const WRITABLE: [&str; 13] = [
    "name",
    "description",
    "target",
    "method",
    "headers",
    "triggers",
    "filter",
    "payload",
    "active",
    "notifyEmail",
    "retrySchedule",
    "rateLimit",
    "maxInFlight",
];

/// The fields that Fanfare writes.
pub const READ_ONLY: [&str; 7] = ["id", "secret", "version", "disabled", "revision", "createdAt", "updatedAt"];

/// What a tenant's catalog and the operator say about webhooks.
pub struct Rules<'a> {
    /// The fields its tenants set, some of [`WRITABLE`].
    pub settable: &'a [String],
    /// Whether the catalog has this trigger.
    pub knows_trigger: &'a dyn Fn(&str) -> bool,
    /// Whether the catalog can render this form of body.
    pub has_payload: &'a dyn Fn(PayloadForm) -> bool,
    /// The header in which the catalog sends the secret, lower case.
    pub secret_header: Option<&'a str>,
    /// Where targets may lie.
    pub targets: &'a TargetRules,
}

/// Headers that are Fanfare's or the connection's to set (contract.md, Requests to receivers; RFC 9110 7.6.1).
pub const RESERVED_HEADERS: [&str; 14] = [
    header::WEBHOOK_ID,
    header::WEBHOOK_TIMESTAMP,
    header::WEBHOOK_SIGNATURE,
    "host",
    "content-length",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The most headers of its own that a webhook may have.
pub const MAX_HEADERS: usize = 32;
const MAX_TRIGGERS: usize = 100;
const MAX_RETRIES: usize = 20;
const MAX_RETRY: Span = Span::secs(7 * 86_400);
const MAX_RETRIES_TOTAL: Span = Span::secs(14 * 86_400);

impl Webhook {
    /// The webhook that a tenant's `body` asks for, at `now_ms`.
    pub fn create(
        id: WebhookId,
        body: &Map<String, Value>,
        now_ms: u64,
        rules: &Rules<'_>,
    ) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let target = match body.get("target") {
            None => {
                errors.push(FieldError::new("target", "is required"));
                None
            }
            Some(value) => note(&mut errors, "target", target(value, rules)),
        };
        if !body.contains_key("triggers") {
            errors.push(FieldError::new("triggers", "is required"));
        }
        // The other fields are judged beside a target that is surely right, so that all errors are told at once.
        let target = target.unwrap_or_else(|| {
            Target::try_from("https://example.com/".to_owned()).expect("a constant that is a right target")
        });
        let mut webhook = Self {
            id,
            name: None,
            description: None,
            target,
            method: Method::Post,
            headers: Vec::new(),
            triggers: Vec::new(),
            filter: None,
            payload: PayloadForm::Full,
            active: true,
            notify_email: None,
            retry_schedule: None,
            rate_limit: None,
            max_in_flight: None,
            disabled: None,
            revision: 1,
            created_at: now_ms,
            updated_at: now_ms,
        };
        for (field, value) in body.iter().filter(|(field, _)| *field != "target" || !rules.settable.contains(field)) {
            webhook.set(field, value, rules, &mut errors);
        }
        if errors.is_empty() { Ok(webhook) } else { Err(errors) }
    }

    /// This webhook with the changes that a tenant's `body` asks for, at `now_ms`. A null resets a field to its default.
    pub fn changed(&self, body: &Map<String, Value>, now_ms: u64, rules: &Rules<'_>) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut webhook = Self { revision: self.revision + 1, updated_at: now_ms.max(self.created_at), ..self.clone() };
        for (field, value) in body {
            webhook.set(field, value, rules, &mut errors);
        }
        if errors.is_empty() { Ok(webhook) } else { Err(errors) }
    }

    /// The policy of its deliveries under its catalog's.
    pub fn policy(&self, catalog: &DeliveryPolicy) -> DeliveryPolicy {
        catalog.clone().with_schedule(self.retry_schedule.as_deref())
    }

    fn set(&mut self, field: &str, value: &Value, rules: &Rules<'_>, errors: &mut Vec<FieldError>) {
        if !rules.settable.iter().any(|settable| settable == field) {
            let why = if READ_ONLY.contains(&field) { "is read-only" } else { "is no field of a webhook" };
            return errors.push(FieldError::new(field, why));
        }
        match field {
            "name" => assign(errors, field, optional(value, |v| text(v, 256)), &mut self.name),
            "description" => assign(errors, field, optional(value, |v| text(v, 4_096)), &mut self.description),
            "target" => assign(errors, field, target(value, rules), &mut self.target),
            "method" => assign(errors, field, or_default(value, Method::Post, method), &mut self.method),
            "headers" => match headers(value, rules) {
                Ok(headers) => self.headers = headers,
                Err(wrong) => errors.extend(wrong),
            },
            "triggers" => match triggers(value, rules) {
                Ok(triggers) => self.triggers = triggers,
                Err(wrong) => errors.extend(wrong),
            },
            "filter" => match filter(value) {
                Ok(filter) => self.filter = filter,
                Err(wrong) => errors.extend(wrong),
            },
            "payload" => {
                assign(errors, field, or_default(value, PayloadForm::Full, |v| payload(v, rules)), &mut self.payload)
            }
            "active" => assign(errors, field, or_default(value, true, boolean), &mut self.active),
            "notifyEmail" => assign(errors, field, optional(value, email), &mut self.notify_email),
            "retrySchedule" => assign(errors, field, optional(value, retry_schedule), &mut self.retry_schedule),
            "rateLimit" => assign(errors, field, optional(value, |v| number(v, 1, 100_000)), &mut self.rate_limit),
            "maxInFlight" => assign(errors, field, optional(value, |v| number(v, 1, 1_000)), &mut self.max_in_flight),
            _ => errors.push(FieldError::new(field, "is no field of a webhook")),
        }
    }
}

fn note<T>(errors: &mut Vec<FieldError>, field: &str, result: Result<T, String>) -> Option<T> {
    result.map_err(|message| errors.push(FieldError::new(field, message))).ok()
}

fn assign<T>(errors: &mut Vec<FieldError>, field: &str, result: Result<T, String>, to: &mut T) {
    if let Some(value) = note(errors, field, result) {
        *to = value;
    }
}

fn optional<T>(value: &Value, parse: impl Fn(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    if value.is_null() { Ok(None) } else { parse(value).map(Some) }
}

fn or_default<T>(value: &Value, default: T, parse: impl Fn(&Value) -> Result<T, String>) -> Result<T, String> {
    optional(value, parse).map(|value| value.unwrap_or(default))
}

fn text(value: &Value, max_chars: usize) -> Result<String, String> {
    match value.as_str() {
        None => Err("must be a string".into()),
        Some(text) if text.chars().count() > max_chars => Err(format!("must be at most {max_chars} characters")),
        Some(text) if text.contains('\0') => Err("must hold no NUL character".into()),
        Some(text) => Ok(text.to_owned()),
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".into())
}

fn number(value: &Value, min: u32, max: u32) -> Result<u32, String> {
    let within = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (min..=max).contains(n));
    within.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
}

fn target(value: &Value, rules: &Rules<'_>) -> Result<Target, String> {
    let text = value.as_str().ok_or("must be a string")?;
    Target::parse(text, rules.targets).map_err(|error| error.to_string())
}

fn method(value: &Value) -> Result<Method, String> {
    serde_json::from_value(value.clone()).map_err(|_| "must be one of POST, PUT, PATCH, DELETE".into())
}

fn payload(value: &Value, rules: &Rules<'_>) -> Result<PayloadForm, String> {
    let form = serde_json::from_value(value.clone()).map_err(|_| "must be `full` or `identity`")?;
    if (rules.has_payload)(form) { Ok(form) } else { Err("is a form that this catalog does not have".into()) }
}

fn email(value: &Value) -> Result<String, String> {
    let address = text(value, 254)?;
    let fits = address.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty()
            && !host.is_empty()
            && !host.contains('@')
            && !address.chars().any(|c| c.is_whitespace() || c.is_control())
    });
    if fits { Ok(address) } else { Err("must be an e-mail address".into()) }
}

fn retry_schedule(value: &Value) -> Result<Vec<Span>, String> {
    let items = value.as_array().ok_or("must be a list of durations such as [\"5s\", \"10min\"]")?;
    if items.len() > MAX_RETRIES {
        return Err(format!("must be at most {MAX_RETRIES} durations"));
    }
    let mut schedule = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let span: Span = item
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("[{at}] must be a duration such as `15s`, `5min`, `2h` or `7d`"))?;
        if span > MAX_RETRY {
            return Err(format!("[{at}] must be at most {MAX_RETRY}"));
        }
        schedule.push(span);
    }
    let total: std::time::Duration = schedule.iter().map(|span| span.0).sum();
    if total > MAX_RETRIES_TOTAL.0 { Err(format!("must be at most {MAX_RETRIES_TOTAL} in all")) } else { Ok(schedule) }
}

fn headers(value: &Value, rules: &Rules<'_>) -> Result<Vec<(String, String)>, Vec<FieldError>> {
    let map = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(map) if map.len() <= MAX_HEADERS => map,
        Value::Object(_) => return Err(vec![FieldError::new("headers", format!("must be at most {MAX_HEADERS}"))]),
        _ => return Err(vec![FieldError::new("headers", "must be an object of names and values")]),
    };
    let (mut headers, mut errors, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (name, value) in map {
        let lower = name.to_ascii_lowercase();
        let reserved = RESERVED_HEADERS.contains(&lower.as_str())
            || lower.starts_with("fanfare-")
            || rules.secret_header.is_some_and(|header| header.eq_ignore_ascii_case(&lower));
        let wrong = match value.as_str() {
            _ if name.len() > 256 || http::HeaderName::from_bytes(name.as_bytes()).is_err() => "is no HTTP header name",
            _ if reserved => "may not be set: it is Fanfare's or the connection's own",
            _ if !seen.insert(lower) => "stands twice",
            None => "must be a string",
            Some(value) if value.len() > 4_096 => "must be at most 4096 bytes",
            Some(value) if http::HeaderValue::from_str(value).is_err() || value.trim() != value => {
                "must be visible ASCII characters and blanks, with none at either end"
            }
            Some(value) => {
                headers.push((name.clone(), value.to_owned()));
                continue;
            }
        };
        errors.push(FieldError::new(format!("headers.{name}"), wrong));
    }
    if errors.is_empty() { Ok(headers) } else { Err(errors) }
}

fn triggers(value: &Value, rules: &Rules<'_>) -> Result<Vec<String>, Vec<FieldError>> {
    let whole = |message: &str| Err(vec![FieldError::new("triggers", message)]);
    let items = match value.as_array() {
        None => return whole("must be a list of trigger names"),
        Some(items) if items.is_empty() => return whole("must name at least one trigger"),
        Some(items) if items.len() > MAX_TRIGGERS => return whole("must be at most 100 triggers"),
        Some(items) => items,
    };
    let (mut triggers, mut errors) = (Vec::new(), Vec::new());
    for (at, item) in items.iter().enumerate() {
        let wrong = match item.as_str() {
            None => "must be a string".to_owned(),
            Some(name) if !(rules.knows_trigger)(name) => {
                let shown: String = name.chars().take(64).collect();
                format!("no trigger `{shown}` in this catalog: `GET /v1/triggers` lists them")
            }
            Some(name) if triggers.iter().any(|other| other == name) => "stands twice".to_owned(),
            Some(name) => {
                triggers.push(name.to_owned());
                continue;
            }
        };
        errors.push(FieldError::new(format!("triggers[{at}]"), wrong));
    }
    if errors.is_empty() { Ok(triggers) } else { Err(errors) }
}

/// A filter as it is saved: an event pattern that compiles, or none. Errors name the place, as `filter.data.total[0]`.
pub fn filter(value: &Value) -> Result<Option<Value>, Vec<FieldError>> {
    if value.is_null() {
        return Ok(None);
    }
    let place = |path: &str| match path {
        "" => "filter".to_owned(),
        path if path.starts_with('[') => format!("filter{path}"),
        path => format!("filter.{path}"),
    };
    match Pattern::parse(value) {
        Ok(_) => Ok(Some(value.clone())),
        Err(errors) => {
            Err(errors.into_iter().map(|error| FieldError::new(place(&error.path), error.message)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn create(body: &Value) -> Result<Webhook, Vec<String>> {
        let settable = WRITABLE.map(str::to_owned);
        let rules = Rules {
            settable: &settable,
            knows_trigger: &|name| name == "order.paid" || name == "order.sent",
            has_payload: &|form| form == PayloadForm::Full,
            secret_header: Some("x-secret"),
            targets: &TargetRules::default(),
        };
        let id = "5ceec43ce1b5b412ba9d0e73".parse().unwrap();
        Webhook::create(id, body.as_object().unwrap(), 1_000, &rules)
            .map_err(|errors| errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn a_webhook_needs_a_target_and_a_trigger() {
        assert_eq!(create(&json!({})).unwrap_err(), ["target", "triggers"]);
        let webhook = create(&json!({ "target": "https://example.com/?a=1&a=2", "triggers": ["order.paid"] })).unwrap();
        assert_eq!(webhook.target.as_str(), "https://example.com/?a=1&a=2");
        assert_eq!((webhook.method, webhook.active, webhook.revision), (Method::Post, true, 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, value, named) in [
            ("target", json!("ftp://example.com/"), "target"),
            ("target", json!("http://10.0.0.7/hook"), "target"),
            ("triggers", json!([]), "triggers"),
            ("triggers", json!(["order.paid", "order.lost"]), "triggers[1]"),
            ("method", json!("GET"), "method"),
            ("headers", json!({ "Host": "x" }), "headers.Host"),
            ("headers", json!({ "Webhook-Id": "x" }), "headers.Webhook-Id"),
            ("headers", json!({ "Fanfare-Attempt": "x" }), "headers.Fanfare-Attempt"),
            ("headers", json!({ "X-Secret": "x" }), "headers.X-Secret"),
            ("headers", json!({ "X-A": "a\r\nb" }), "headers.X-A"),
            ("headers", json!({ "x a": "b" }), "headers.x a"),
            ("headers", json!([]), "headers"),
            ("payload", json!("identity"), "payload"),
            ("active", json!("yes"), "active"),
            ("notifyEmail", json!("nobody"), "notifyEmail"),
            ("retrySchedule", json!(["8d"]), "retrySchedule"),
            ("retrySchedule", json!(["7d", "7d", "1s"]), "retrySchedule"),
            ("retrySchedule", json!(vec!["1s"; 21]), "retrySchedule"),
            ("rateLimit", json!(0), "rateLimit"),
            ("maxInFlight", json!(1001), "maxInFlight"),
            ("secret", json!("mine"), "secret"),
            ("colour", json!("red"), "colour"),
        ] {
            let mut body = json!({ "target": "https://example.com/", "triggers": ["order.paid"] });
            body[field] = value.clone();
            assert_eq!(create(&body).unwrap_err(), [named], "{field}: {value}");
        }
    }

    #[test]
    fn a_change_keeps_the_rest_and_counts() {
        let settable = WRITABLE.map(str::to_owned);
        let targets = TargetRules::default();
        let rules = Rules {
            settable: &settable,
            knows_trigger: &|_| true,
            has_payload: &|_| true,
            secret_header: None,
            targets: &targets,
        };
        let made = create(
            &json!({ "target": "https://example.com/", "triggers": ["order.paid"], "rateLimit": 5, "name": "A" }),
        )
        .unwrap();
        let changed =
            made.changed(json!({ "name": "B", "rateLimit": null }).as_object().unwrap(), 2_000, &rules).unwrap();
        assert_eq!((changed.name.as_deref(), changed.rate_limit, changed.revision), (Some("B"), None, 2));
        assert_eq!((changed.target, changed.created_at, changed.updated_at), (made.target, 1_000, 2_000));
    }
}
