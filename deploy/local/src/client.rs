//! A client of the management API and of ingest over HTTP.
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Talks to one Fanfare with one token: the operator's, or a tenant's key.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    ingest: String,
    token: String,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "as in HTTP")]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A webhook as the api shows it; `fields` has what is not named here.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "named in the contract")]
pub struct Webhook {
    pub id: String,
    #[serde(default)]
    pub secret: String,
    pub target: String,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// An event type of a tenant's catalog; `fields` has what is not named here.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "named in the contract")]
pub struct EventType {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub examples: Vec<Value>,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// A CloudEvent: its attributes, and `data` where it has some.
#[derive(Clone, Debug, PartialEq)]
pub struct Event(Map<String, Value>);

impl Event {
    /// An event of this type with a new id.
    pub fn new(kind: &str, data: Value) -> Self {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        let attributes = [("specversion", "1.0"), ("id", &id), ("source", "/fanfare-local"), ("type", kind)];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.into()));
        Self(attributes.into_iter().chain([("data".to_owned(), data)]).collect())
    }

    /// An event type's documented example with a new id, happening now; `example` is a CloudEvent (what it leaves out is
    /// as in [`Event::new`]), an object with one under `event`, or its data alone.
    pub fn from_example(kind: &str, example: &Value) -> Self {
        let example = example.get("event").filter(|event| event.get("type").is_some()).unwrap_or(example);
        let is_event = |fields: &&Map<String, Value>| fields.contains_key("specversion") || fields.contains_key("type");
        match example.as_object().filter(is_event) {
            None => Self::new(kind, example.clone()),
            Some(fields) => {
                let mut event = Self::new(kind, Value::Null).without("data");
                event.0.extend(fields.clone().into_iter().filter(|(name, _)| name != "id" && name != "time"));
                event
            }
        }
    }

    /// The same with an attribute, or `data`, set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The same without an attribute, or without `data`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.shift_remove(name);
        self
    }

    /// Its CloudEvents id; empty where it was taken off.
    pub fn id(&self) -> &str {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its type.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its data.
    pub fn data(&self) -> Option<&Value> {
        self.0.get("data")
    }

    /// All but its data.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().filter(|(name, _)| *name != "data").map(|(name, value)| (name.as_str(), value))
    }

    /// In structured mode.
    pub fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

impl Client {
    /// `api` and `ingest` are URLs without a path.
    pub fn new(api: &str, ingest: &str, token: &str) -> Result<Self> {
        let http = builder().pool_max_idle_per_host(32).build()?;
        Ok(Self { http, api: api.into(), ingest: ingest.into(), token: token.into() })
    }

    /// The same Fanfare with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.into(), ..self.clone() }
    }

    /// The token it uses.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Asks the api; `path` begins with `/v1`.
    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answered> {
        self.ask_with(method, path, &[], body).await
    }

    /// The same with headers.
    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answered> {
        let mut request = self.http.request(method.parse()?, format!("{}{path}", self.api)).bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answered::read(request.send().await).await
    }

    /// Asks for what must be there.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, None).await?.expect_success("GET", path)
    }

    /// Asks for what must succeed.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", path, Some(body)).await?.expect_success("POST", path)
    }

    /// Changes what must be there.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("PATCH", path, Some(body)).await?.expect_success("PATCH", path)
    }

    /// Deletes what must be there.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.ask("DELETE", path, None).await?.expect_success("DELETE", path).map(drop)
    }

    /// Operator: makes a tenant, with a catalog or the default one, and returns a client with a key for it that may
    /// everything.
    pub async fn create_tenant(&self, id: &str, catalog: Option<&str>) -> Result<Self> {
        let mut tenant = json!({ "id": id });
        if let Some(catalog) = catalog {
            tenant["catalog"] = catalog.into();
        }
        self.post("/v1/tenants", &tenant).await?;
        Ok(self.with_token(&self.create_key(id, None).await?))
    }

    /// Operator: makes a key for a tenant, with these scopes or all.
    pub async fn create_key(&self, tenant: &str, scopes: Option<&[&str]>) -> Result<String> {
        let body = scopes.map_or_else(|| json!({}), |scopes| json!({ "scopes": scopes }));
        let made = self.post(&format!("/v1/tenants/{tenant}/keys"), &body).await?;
        Ok(made["key"].as_str().context("the answer has no `key`")?.to_owned())
    }

    /// Tenant: makes a webhook of these fields.
    pub async fn create_webhook(&self, fields: &Value) -> Result<Webhook> {
        Ok(serde_json::from_value(self.post("/v1/webhooks", fields).await?)?)
    }

    /// Tenant: a webhook.
    pub async fn webhook(&self, id: &str) -> Result<Webhook> {
        Ok(serde_json::from_value(self.get(&format!("/v1/webhooks/{id}")).await?)?)
    }

    /// Tenant: the event types of its catalog.
    pub async fn event_types(&self) -> Result<Vec<EventType>> {
        Ok(serde_json::from_value(self.get("/v1/event-types").await?["eventTypes"].take())?)
    }

    /// Tenant: the newest deliveries, by a query such as `status=failed&limit=100`.
    pub async fn deliveries(&self, query: &str) -> Result<Vec<Value>> {
        Ok(serde_json::from_value(self.get(&format!("/v1/deliveries?{query}")).await?["deliveries"].take())?)
    }

    /// Tenant: a delivery with its attempts.
    pub async fn delivery(&self, id: &str) -> Result<Value> {
        self.get(&format!("/v1/deliveries/{id}")).await
    }

    /// Publishes an event in structured mode and returns the answer, whatever it is.
    pub async fn offer(&self, event: &Event) -> Result<Answered> {
        self.post_events(&[("content-type", "application/cloudevents+json")], event.to_json()).await
    }

    /// Publishes an event that must be accepted; returns Fanfare's own id of it, a ULID.
    pub async fn publish(&self, event: &Event) -> Result<String> {
        let accepted = self.offer(event).await?.expect_success("POST", "/v1/events")?;
        Ok(accepted["event"].as_str().context("the answer has no `event`")?.to_owned())
    }

    /// Posts any body with any headers to ingest.
    pub async fn post_events(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answered> {
        let mut request = self.http.post(format!("{}/v1/events", self.ingest)).bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answered::read(request.body(body.into()).send().await).await
    }
}

impl Answered {
    async fn read(answer: reqwest::Result<reqwest::Response>) -> Result<Self> {
        let answer = answer?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Self { status, headers, body: answer.bytes().await? })
    }

    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn expect_success(self, method: &str, path: &str) -> Result<Value> {
        let body = String::from_utf8_lossy(&self.body);
        ensure!((200..300).contains(&self.status), "{method} {path}: {} {body}", self.status);
        Ok(self.json())
    }
}

/// For single requests: no connection is kept, so it works from one runtime after another.
pub(crate) fn http() -> Result<reqwest::Client> {
    Ok(builder().pool_max_idle_per_host(0).build()?)
}

fn builder() -> reqwest::ClientBuilder {
    // reqwest takes the process's TLS provider; a second try to set it fails, and may.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).redirect(reqwest::redirect::Policy::none())
}

/// A path segment, percent-encoded.
pub(crate) fn escaped(segment: &str) -> String {
    url::form_urlencoded::byte_serialize(segment.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_becomes_a_new_event() {
        let event =
            json!({ "type": "a", "id": "old", "time": "2026-01-15T09:30:00Z", "subject": "s", "data": { "b": 1 } });
        for (example, subject) in
            [(event.clone(), Some("s")), (json!({ "event": event, "body": {} }), Some("s")), (json!({ "b": 1 }), None)]
        {
            let made = Event::from_example("a", &example);
            let names: Vec<&str> = made.attributes().map(|(name, _)| name).filter(|name| *name != "subject").collect();
            assert_eq!(names, ["specversion", "id", "source", "type"], "{example}");
            assert_eq!((made.kind(), made.data()), ("a", Some(&json!({ "b": 1 }))));
            assert_eq!(made.0.get("subject").and_then(Value::as_str), subject);
            assert_ne!(made.id(), "old");
        }
    }
}
