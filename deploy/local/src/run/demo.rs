//! A tenant with webhooks to the receiver, its catalog's documented examples published both ways, and a line for each
//! request that arrives.
use crate::plan::Plan;
use crate::private::Private;
use crate::screen::say;
use anyhow::{Context, Result};
use fanfare_local::{Client, Event, EventType, Publisher, Receiver, Recorded, Services, Webhook};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// So often are arrivals looked for while there are none.
const FOREVER: Duration = Duration::from_secs(86_400);
/// A shell command longer than this is no longer read as one line.
const INLINE_MAX_BYTES: usize = 160;
/// What a request is called that is no delivery: a ping, or a test on save.
const TEST: &str = "a test";

pub(crate) struct Demo {
    operator: Client,
    client: Client,
    tenant: String,
    publisher: Publisher,
    webhooks: Vec<Webhook>,
    /// What arrived while the webhooks were saved: a catalog's test on save.
    tests: Vec<Arc<Recorded>>,
    types: Vec<EventType>,
    outlives_us: bool,
}

/// How an event was published.
#[derive(Clone, Copy, Debug)]
enum Way {
    Http,
    Amqp,
}

impl Demo {
    pub(crate) async fn make(plan: &Plan, services: &Services, private: &Private) -> Result<Self> {
        let operator = services.operator()?;
        let outlives_us = plan.given_redis().is_some();
        // In a Redis that stays, `demo` may be somebody's.
        let tenant = if outlives_us { format!("demo-{:08x}", rand::random::<u32>()) } else { "demo".to_owned() };
        let client = operator.create_tenant(&tenant, Some(&plan.catalog)).await?;
        let mut types = client.event_types().await?;
        // What begins `fanfare.` is Fanfare's own to publish.
        types.retain(|kind| !kind.examples.is_empty() && !kind.name.starts_with("fanfare."));
        if types.is_empty() {
            types.push(serde_json::from_value(any_type())?); // a catalog that takes any type knows none
        }
        let webhooks = make_webhooks(&client, &types, &private.receiver).await?;
        let tests = private.receiver.take();
        let publisher = Publisher::connect(&private.amqp_url).await?;
        Ok(Self { operator, client, tenant, publisher, webhooks, tests, types, outlives_us })
    }

    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Publishes every example, both ways, one after another, and says how each arrived. Returns when the first did.
    pub(crate) async fn publish_examples(&self, receiver: &Receiver, ready: Instant) -> Option<Duration> {
        let mut first = None;
        for test in &self.tests {
            say(&self.line(test, TEST, "on save  ", None));
        }
        for (kind, example) in
            self.types.iter().flat_map(|kind| kind.examples.iter().map(move |example| (kind, example)))
        {
            for way in [Way::Http, Way::Amqp] {
                let event = Event::from_example(&kind.name, example);
                let begun = SystemTime::now();
                if let Err(error) = self.publish(&event, way).await {
                    say(&format!(
                        "{}  {}  {}  not accepted: {error:#}",
                        clock(begun),
                        self.padded(&kind.name),
                        way.text()
                    ));
                    continue;
                }
                if receiver.wait_for(1, ARRIVES_WITHIN).await.is_err() {
                    let late = format!("not delivered within {} s: see the logs", ARRIVES_WITHIN.as_secs());
                    say(&format!("{}  {}  {}  {late}", clock(begun), self.padded(&kind.name), way.text()));
                }
                for request in receiver.take() {
                    first.get_or_insert_with(|| ready.elapsed());
                    say(&self.line(&request, &kind.name, way.text(), Some(begun)));
                }
            }
        }
        first
    }

    /// A line for each request that arrives from now on.
    pub(crate) async fn show_arrivals(&self, receiver: &Receiver) -> Infallible {
        loop {
            if receiver.wait_for(1, FOREVER).await.is_ok() {
                for request in receiver.take() {
                    let delivery = self.delivery_of(&request).await;
                    let kind = delivery["eventType"].as_str().unwrap_or(TEST); // what is no delivery was asked for
                    say(&self.line(&request, kind, "         ", None));
                }
            }
        }
    }

    /// Takes away what would stay behind in a Redis that is not ours.
    pub(crate) async fn clear_up(&self) {
        if self.outlives_us
            && let Err(error) = self.operator.delete(&format!("/v1/tenants/{}", self.tenant)).await
        {
            say(&format!("the tenant {} stays: {error:#}", self.tenant));
        }
    }

    /// One line that publishes once more, as often as it is run: without an id it is a new event each time.
    pub(crate) fn curl_line(&self, plan: &Plan) -> String {
        let smallest = self.types.iter().min_by_key(|kind| kind.examples[0].to_string().len());
        let event = smallest.map(|kind| Event::from_example(&kind.name, &kind.examples[0])).map(without_identity);
        let body = event.map(|event| event.to_json()).unwrap_or_default();
        let is_inline = body.len() <= INLINE_MAX_BYTES && !body.contains('\'');
        let body = if is_inline {
            format!("'{body}'")
        } else {
            let file = plan.event_file();
            if let Err(error) = std::fs::write(&file, &body) {
                say(&format!("writing `{}`: {error}", file.display()));
            }
            format!("@{}", file.display())
        };
        let key = self.client.token();
        format!("curl -H 'Authorization: Bearer {key}' --json {body} {}", plan.events_url())
    }

    /// What lets the first webhook get deliveries again, once its receiver answers.
    pub(crate) fn enable_line(&self, plan: &Plan) -> String {
        let id = self.webhooks.first().map(|webhook| webhook.id.as_str()).unwrap_or_default();
        let key = self.client.token();
        format!("curl -H 'Authorization: Bearer {key}' --json '{{}}' {}/v1/webhooks/{id}/enable", plan.api_url())
    }

    async fn publish(&self, event: &Event, way: Way) -> Result<()> {
        match way {
            Way::Http => self.client.publish(event).await.map(drop),
            Way::Amqp => self.publisher.publish(&self.tenant, event).await,
        }
    }

    fn line(&self, request: &Recorded, kind: &str, way: &str, begun: Option<SystemTime>) -> String {
        let status = request.status;
        let took = begun.and_then(|begun| request.at.duration_since(begun).ok());
        let took = match took {
            _ if !(200..300).contains(&status) => "refused".to_owned(),
            None => "delivered".to_owned(),
            Some(took) => format!("delivered in {} ms", took.as_millis()),
        };
        let attempt = request.header("fanfare-attempt").filter(|attempt| *attempt != "1");
        let attempt = attempt.map(|attempt| format!("  attempt {attempt}")).unwrap_or_default();
        let signature = self.signature_of(request);
        format!("{}  {}  {way}  {took}  {status}  {signature}{attempt}", clock(request.at), self.padded(kind))
    }

    fn signature_of(&self, request: &Recorded) -> String {
        let id = webhook_id(request).unwrap_or_default();
        match self.webhooks.iter().find(|webhook| webhook.id == id) {
            None => "from another webhook".into(),
            Some(webhook) => match request.verify(&webhook.secret) {
                Ok(()) => "signature ok".into(),
                Err(error) => format!("signature wrong: {error}"),
            },
        }
    }

    async fn delivery_of(&self, request: &Recorded) -> Value {
        let id = request.header("webhook-id").unwrap_or_default();
        self.client.delivery(id).await.unwrap_or_default()
    }

    /// In a column as wide as the longest.
    fn padded(&self, kind: &str) -> String {
        let width = self.types.iter().map(|kind| kind.name.len()).max().unwrap_or_default();
        format!("{kind:<width$}")
    }
}

impl Way {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "over HTTP",
            Self::Amqp => "over AMQP",
        }
    }
}

/// One webhook for all that the catalog can tell; where it wants one trigger per webhook, one for each type.
async fn make_webhooks(client: &Client, types: &[EventType], receiver: &Receiver) -> Result<Vec<Webhook>> {
    let fields = |name: &str, triggers: &[&str]| {
        let target = receiver.url("/webhooks?from=make-run");
        json!({ "name": name, "target": target, "triggers": triggers })
    };
    let kinds: Vec<&str> = types.iter().map(|kind| kind.name.as_str()).collect();
    let triggers = client.get("/v1/triggers").await?;
    // A trigger may stand for what no type's own name does.
    let named = triggers["triggers"].as_array().into_iter().flatten().filter_map(|trigger| trigger["name"].as_str());
    let mut all = kinds.clone();
    all.extend(named.filter(|name| !name.starts_with("fanfare.") && !kinds.contains(name)));
    if let Ok(webhook) = client.create_webhook(&fields("Everything", &all)).await {
        return Ok(vec![webhook]);
    }
    let mut webhooks = Vec::new();
    for kind in kinds {
        webhooks.push(client.create_webhook(&fields(kind, &[kind])).await.context("making a webhook")?);
    }
    Ok(webhooks)
}

fn any_type() -> Value {
    json!({ "name": "order.paid", "examples": [{ "order": "1001", "total": 12 }] })
}

/// `<event>_<webhook>`, and for a replay `_r<job>` after it.
fn webhook_id(request: &Recorded) -> Option<&str> {
    request.header("webhook-id")?.split('_').nth(1)
}

fn without_identity(event: Event) -> Event {
    ["specversion", "id", "source", "time"].into_iter().fold(event, Event::without)
}

/// `14:02:05.113`, here.
fn clock(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default().to_zoned(TimeZone::system());
    at.strftime("%H:%M:%S%.3f").to_string()
}
