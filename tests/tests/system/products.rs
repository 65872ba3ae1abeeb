//! Fanfare in the place of the five products (design/seed-systems.md): what their upstream systems publish, and the requests
//! that their documents promise. `products/*.json` has every example of the documents, beside the event that makes it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use fanfare_local::{Answer, Binaries, Client, Event, Publisher, Receiver, Recorded, Service, Webhook};
use serde_json::{Map, Value, json};

use crate::fanfare::{Fanfare, PATIENCE, Tenant, story};

const OURS: &str = concat!("Fanfare/", env!("CARGO_PKG_VERSION"));

/// What a product's document says of its requests, and how many examples it has.
struct Product {
    catalog: &'static str,
    user_agent: &'static str,
    content_type: &'static str,
    secret_header: Option<&'static str>,
    examples: usize,
    documented: &'static str,
}

const PRODUCTS: [Product; 4] = [
    Product {
        catalog: "apirtc",
        user_agent: "Cloud Apizee",
        content_type: "application/JSON",
        secret_header: None,
        examples: 2,
        documented: include_str!("products/apirtc.json"),
    },
    Product {
        catalog: "structurely",
        user_agent: OURS,
        content_type: "application/json",
        secret_header: Some("x-webhook-secret"),
        examples: 2,
        documented: include_str!("products/structurely.json"),
    },
    Product {
        catalog: "ebbot",
        user_agent: OURS,
        content_type: "application/json",
        secret_header: None,
        examples: 11,
        documented: include_str!("products/ebbot.json"),
    },
    Product {
        catalog: "tracebuzz",
        user_agent: OURS,
        content_type: "application/json",
        secret_header: None,
        examples: 4,
        documented: include_str!("products/tracebuzz.json"),
    },
];

/// The ways in which an upstream system can publish.
#[derive(Debug, Clone, Copy)]
enum Way {
    Http,
    HttpBinary,
    Amqp,
    AmqpBinary,
}

const WAYS: [Way; 4] = [Way::Http, Way::HttpBinary, Way::Amqp, Way::AmqpBinary];

/// An event of these attributes and data, with a new id.
fn event(fields: &Value) -> Event {
    let kind = fields["type"].as_str().unwrap_or_default();
    let fields = fields.as_object().into_iter().flatten();
    fields.fold(Event::new(kind, Value::Null).without("data"), |event, (name, value)| event.with(name, value.clone()))
}

async fn publish(tenant: &Tenant, publisher: &Publisher, way: Way, event: &Event) -> Result<()> {
    match way {
        Way::Http => tenant.client.publish(event).await.map(drop),
        Way::Amqp => publisher.publish(&tenant.id, event).await,
        Way::AmqpBinary => publisher.publish_binary(&tenant.id, event).await,
        Way::HttpBinary => {
            let attributes: Vec<(String, &str)> = event
                .attributes()
                .map(|(name, value)| (format!("ce-{name}"), value.as_str().unwrap_or_default()))
                .collect();
            let mut headers: Vec<(&str, &str)> =
                attributes.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            headers.push(("content-type", "application/json"));
            let data = event.data().map(Value::to_string).unwrap_or_default();
            let answer = tenant.client.post_events(&headers, data).await?;
            ensure!(answer.status == 202, "{way:?}: {} {}", answer.status, answer.json());
            Ok(())
        }
    }
}

/// Waits for the requests with exactly this body, and returns them once there are `count`.
async fn arrived(receiver: &Receiver, body: &str, count: usize) -> Result<Vec<Arc<Recorded>>> {
    let mut found = Vec::new();
    let waited = receiver.wait_for_one(PATIENCE, |request| {
        if request.body == body.as_bytes() {
            found.push(request.header("webhook-id").unwrap_or_default().to_owned());
        }
        found.len() == count
    });
    waited.await.with_context(|| format!("{} of {count} requests came with the body {body}", found.len()))?;
    Ok(receiver.requests().into_iter().filter(|request| request.body == body.as_bytes()).collect())
}

/// How often a body came.
fn times(receiver: &Receiver, body: &str) -> usize {
    receiver.requests().iter().filter(|request| request.body == body.as_bytes()).count()
}

/// A webhook of these fields on a receiver.
async fn webhook(client: &Client, receiver: &Receiver, triggers: &[&str], fields: Value) -> Result<Webhook> {
    let mut body = Map::from_iter([
        ("target".to_owned(), json!(receiver.url("/hook?of=product"))),
        ("triggers".to_owned(), json!(triggers)),
    ]);
    body.extend(fields.as_object().cloned().unwrap_or_default());
    client.create_webhook(&Value::Object(body)).await
}

#[test]
fn every_documented_example_arrives_as_documented_however_it_is_published() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        let mut sent = Vec::new();
        for product in &PRODUCTS {
            let tenant = fanfare.tenant_of(product.catalog, product.catalog).await?;
            let receiver = Receiver::start().await?;
            let examples: Vec<Value> = serde_json::from_str(product.documented)?;
            assert_eq!(examples.len(), product.examples, "{}", product.catalog);
            let types: Vec<&str> = examples.iter().filter_map(|example| example["event"]["type"].as_str()).collect();
            let mut triggers: Vec<&str> = types.clone();
            triggers.dedup();
            if product.catalog == "tracebuzz" {
                triggers.push("includeOwnMessage");
            }
            let webhook = webhook(&tenant.client, &receiver, &triggers, json!({ "name": "Everything" })).await?;
            for example in &examples {
                for way in WAYS {
                    publish(&tenant, &publisher, way, &event(&example["event"])).await?;
                }
            }
            sent.push((product, receiver, webhook, examples));
        }
        for (product, receiver, webhook, examples) in &sent {
            for example in examples {
                // As text: keys in their order.
                for request in arrived(receiver, &example["body"].to_string(), WAYS.len()).await? {
                    request.verify(&webhook.secret)?;
                    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/hook?of=product"));
                    let header = |name| request.header(name);
                    assert_eq!(header("user-agent"), Some(product.user_agent), "{}", product.catalog);
                    assert_eq!(header("content-type"), Some(product.content_type), "{}", product.catalog);
                    if let Some(name) = product.secret_header {
                        assert_eq!(header(name), Some(webhook.secret.as_str()));
                    }
                }
            }
        }
        fanfare.balance().await?;
        for (product, receiver, _, examples) in &sent {
            for example in examples {
                let count = times(receiver, &example["body"].to_string());
                assert_eq!(count, WAYS.len(), "{}: {}", product.catalog, example["body"]);
            }
        }
        Ok(())
    });
}

/// The document has types and no examples in JSON: these are the catalog's own, made from the types.
#[test]
fn capturis_webhook_sends_the_form_the_method_and_the_headers_it_was_given() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        let tenant = fanfare.tenant_of("acme", "capturi").await?;
        let all = ["ConversationSummaryUpdated", "ConversationProcessed", "LiveSummaryCreated"];
        let receiver = Receiver::start().await?;
        let mut webhooks = Vec::new();
        for (method, payload) in [("POST", "full"), ("PUT", "identity"), ("PATCH", "full"), ("DELETE", "identity")] {
            // "The URL, including any query parameters": kept byte for byte.
            let target = receiver.url(&format!("/{method}/{payload}?key=a%2Fb&key=c&empty="));
            let headers = json!({ "X-Team": method, "Authorization": "Basic YTpi" });
            let fields = json!({
                "name": payload, "description": "d", "target": target, "method": method, "headers": headers,
                "payload": payload,
            });
            webhooks.push((method, payload, webhook(&tenant.client, &receiver, &all, fields).await?));
        }
        for method in ["GET", "HEAD", "OPTIONS"] {
            let body = json!({ "target": receiver.url("/"), "triggers": all, "method": method });
            let refused = tenant.client.ask("POST", "/v1/webhooks", Some(&body)).await?;
            assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("method")), "{method}");
        }

        let mut expected = Vec::new();
        for kind in tenant.client.event_types().await?.iter().filter(|kind| all.contains(&kind.name.as_str())) {
            for way in WAYS {
                let event = event(&kind.examples[0]["event"]).with("id", Event::new("", json!(1)).id());
                publish(&tenant, &publisher, way, &event).await?;
                let named = if kind.name == "LiveSummaryCreated" { "LiveSummaryMessage" } else { &kind.name };
                let full = json!({ "eventUid": event.id(), "event": named, "entity": event.data() }).to_string();
                expected.push((full, kind.examples[0]["body"]["identity"].to_string()));
            }
        }
        assert_eq!(expected.len(), 3 * WAYS.len());
        for (full, identity) in &expected {
            arrived(&receiver, full, 2).await?;
            arrived(&receiver, identity, 2 * WAYS.len()).await?;
        }
        fanfare.balance().await?;
        assert_eq!(receiver.count(), expected.len() * webhooks.len());
        for (method, payload, webhook) in &webhooks {
            let target = format!("/{method}/{payload}?key=a%2Fb&key=c&empty=");
            let got: Vec<_> = receiver.requests().into_iter().filter(|request| request.target == target).collect();
            assert_eq!(got.len(), expected.len(), "{target}");
            for request in got {
                request.verify(&webhook.secret)?;
                assert_eq!(request.method, *method);
                assert_eq!(
                    (request.header("x-team"), request.header("authorization")),
                    (Some(*method), Some("Basic YTpi"))
                );
                let (agent, content) = (request.header("user-agent"), request.header("content-type"));
                assert_eq!((agent, content), (Some(OURS), Some("application/json")));
                let body = String::from_utf8_lossy(&request.body);
                assert!(
                    expected.iter().any(|(full, id)| body == **(if *payload == "full" { full } else { id })),
                    "{body}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn apirtcs_webhook_gets_the_types_it_filters_on_while_it_is_activated() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        let tenant = fanfare.tenant_of("acme", "apirtc").await?;
        let (filtered, switched, all) = (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        let headers = json!({ "headers": { "X-Api-Key": "abc" } });
        webhook(&tenant.client, &filtered, &["ticket.update", "smsmessage.create"], headers).await?;
        let switch = webhook(&tenant.client, &switched, &["ticket.update"], json!({ "active": false })).await?;
        let types = tenant.client.event_types().await?;
        let own: Vec<&str> =
            types.iter().map(|kind| kind.name.as_str()).filter(|name| !name.starts_with("fanfare.")).collect();
        assert_eq!(own.len(), 15);
        webhook(&tenant.client, &all, &own, json!({})).await?;

        // Of each object's id, and of what is without properties.
        let time = "2019-12-10T11:13:33Z";
        let mut bodies = Vec::new();
        for (kind, subject, props, expected) in [
            ("ticket.update", "100", Some(json!({ "state": "invited" })), r#"100,"props":{"state":"invited"}"#),
            ("ticket.create", "9223372036854775808", None, r#""9223372036854775808""#),
            ("media.delete", "7", Some(json!({ "_parent.id": 3 })), r#"7,"props":{"_parent.id":3}"#),
            ("media.update", "7", Some(json!({ "_parent": { "id": 3 } })), r#"7,"props":{"_parent":{"id":3}}"#),
            ("conversation.update", "100", Some(json!({ "name": "x" })), r#""100","props":{"name":"x"}"#),
            ("conversationevent.create", "5", Some(json!({ "n": 1.5 })), r#"5,"props":{"n":1.5}"#),
            ("smsmessage.create", "88", None, "88"),
        ] {
            let (object, event_name) = kind.split_once('.').context("an object and an event")?;
            let head = format!(r#"{{"event":"{event_name}","time":1575976413,"object":"{object}","objectId":"#);
            let mut fields = json!({ "type": kind, "subject": subject, "time": time });
            if let Some(props) = props {
                fields["data"] = props;
            }
            for way in WAYS {
                publish(&tenant, &publisher, way, &event(&fields)).await?;
            }
            bodies.push((kind, format!("{head}{expected}}}")));
        }
        for (_, body) in &bodies {
            arrived(&all, body, WAYS.len()).await?;
        }
        for (kind, body) in &bodies {
            let wanted = matches!(*kind, "ticket.update" | "smsmessage.create");
            for request in if wanted { arrived(&filtered, body, WAYS.len()).await? } else { Vec::new() } {
                assert_eq!(request.header("x-api-key"), Some("abc"));
            }
        }
        let with_props = json!({ "type": "smsmessage.create", "subject": "88", "data": { "text": "x" } });
        let refused = tenant.client.offer(&event(&with_props)).await?;
        assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("data")));

        // Not activated: what it would have got is held, and comes with what follows once it is activated, or not at all.
        let held = format!("webhook={}&status=held", switch.id);
        let deadline = std::time::Instant::now() + PATIENCE;
        while tenant.client.deliveries(&held).await?.len() < WAYS.len() {
            ensure!(std::time::Instant::now() < deadline, "the switched-off webhook's deliveries were never held");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(switched.count(), 0);
        tenant.client.patch(&format!("/v1/webhooks/{}", switch.id), &json!({ "active": true })).await?;
        tenant.client.publish(&event(&json!({ "type": "ticket.update", "subject": "101", "time": time }))).await?;
        let after = r#"{"event":"update","time":1575976413,"object":"ticket","objectId":101}"#;
        assert_eq!(arrived(&switched, after, 1).await?[0].method, "POST");
        fanfare.balance().await?;
        assert_eq!(filtered.count(), 2 * WAYS.len() + 1, "what it filters on, and nothing else");
        Ok(())
    });
}

#[test]
fn structurelys_secret_travels_as_a_header_on_every_request() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SCHEDULER__SPEED", "20")]).await?;
        let (client, other) =
            (fanfare.tenant_of("client", "structurely").await?, fanfare.tenant_of("other", "structurely").await?);
        let (receiver, others) = (Receiver::start().await?, Receiver::start().await?);
        let both = ["conversation:updated", "response:created"];
        let mut webhooks = Vec::new();
        for (client, receiver) in [(&client.client, &receiver), (&other.client, &others)] {
            let fields = json!({ "name": "My Webhook", "target": receiver.url("/endpoint"), "triggers": both });
            webhooks.push(client.post("/v1/conversationWebhooks", &fields).await?);
        }
        let secret = webhooks[0]["secret"].as_str().context("a secret")?;
        assert!(secret.len() == 48 && secret.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{secret}");
        assert_eq!(webhooks[0]["version"], "v1");

        receiver.answer_in_turn([503, 500, 200]);
        let conversation = "5c09a4416241ea2c293275b8";
        let fields =
            json!({ "type": "response:created", "subject": conversation, "data": { "response": { "text": "?" } } });
        client.client.publish(&event(&fields)).await?;
        let body = format!(r#"{{"trigger":"response:created","id":"{conversation}","response":{{"text":"?"}}}}"#);
        for request in arrived(&receiver, &body, 3).await? {
            assert_eq!(request.header("x-webhook-secret"), Some(secret), "also on retries");
            request.verify(secret)?; // its bytes are the signing key, too
        }
        fanfare.balance().await?;
        assert_eq!(others.count(), 0, "another client's webhooks get nothing");
        Ok(())
    });
}

#[test]
fn an_ebbot_event_is_delivered_once_to_a_webhook_however_many_topics_cover_it() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant_of("acme", "ebbot").await?;
        let examples: Vec<Value> = serde_json::from_str(include_str!("products/ebbot.json"))?;
        let messages = ["chat.user.message", "chat.bot.message", "chat.agent.message", "chat.system.message"];
        let topics: Vec<&str> = examples.iter().filter_map(|example| example["body"]["topic"].as_str()).collect();
        let everything: Vec<&str> = topics.iter().copied().chain(["chat.message"]).collect();
        let subscriptions: [(&[&str], Vec<&str>); 5] = [
            (&["chat.message"], messages.to_vec()),
            (&["chat.message", "chat.user.message", "chat.bot.message"], messages.to_vec()),
            (&["chat.update"], vec!["chat.update", "chat.status.change"]),
            (&["chat.status.change", "chat.update"], vec!["chat.update", "chat.status.change"]),
            (&everything, topics.clone()),
        ];
        let mut receivers = Vec::new();
        for (triggers, covered) in &subscriptions {
            let receiver = Receiver::start().await?;
            webhook(&tenant.client, &receiver, triggers, json!({})).await?;
            receivers.push((receiver, covered));
        }
        for example in &examples {
            tenant.client.publish(&event(&example["event"])).await?;
        }
        for (receiver, covered) in &receivers {
            receiver.wait_for(covered.len(), PATIENCE).await?;
        }
        fanfare.balance().await?;
        for (receiver, covered) in &receivers {
            // Each under its own topic, and each once.
            let mut got: Vec<String> =
                receiver.requests().iter().map(|request| request.json()["topic"].to_string()).collect();
            let mut expected: Vec<String> = covered.iter().map(|topic| json!(topic).to_string()).collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected);
        }
        Ok(())
    });
}

#[test]
fn tracebuzz_own_messages_reach_those_who_include_them_and_only_200_is_a_success() {
    story(async {
        // The timetable runs 600 times as fast: the first retry after half a second.
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SCHEDULER__SPEED", "600")]).await?;
        let tenant = fanfare.tenant_of("profile", "tracebuzz").await?;
        let (incoming, included) = (Receiver::start().await?, Receiver::start().await?);
        let header =
            json!({ "name": "n", "notifyEmail": "ops@example.com", "headers": { "Authorization": "Basic YTpi" } });
        webhook(&tenant.client, &incoming, &["newResult", "caseClosed"], header).await?;
        webhook(&tenant.client, &included, &["newResult", "includeOwnMessage"], json!({})).await?;
        for (fields, named) in [
            (json!({ "triggers": ["includeOwnMessage"] }), "triggers[0]"),
            (json!({ "triggers": ["newResult"], "headers": { "A": "1", "B": "2" } }), "headers"),
            (json!({ "triggers": ["newResult"], "method": "PUT" }), "method"),
        ] {
            let mut body = fields;
            body["target"] = json!(incoming.url("/"));
            let refused = tenant.client.ask("POST", "/v1/webhooks", Some(&body)).await?;
            assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!(named)));
        }

        let examples: Vec<Value> = serde_json::from_str(include_str!("products/tracebuzz.json"))?;
        let [customers, agents, closed, _] = &examples[..] else { panic!("four examples") };
        // From now on a success is what only the document does not call one.
        let turns = std::sync::atomic::AtomicUsize::new(0);
        let is_closed = closed["body"].to_string();
        incoming.answer_by(move |request| match request.body == is_closed.as_bytes() {
            true => Answer::status([202, 204, 200][turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed).min(2)]),
            false => Answer::status(200),
        });
        for example in [customers, agents, closed] {
            tenant.client.publish(&event(&example["event"])).await?;
        }
        arrived(&included, &agents["body"].to_string(), 1).await?;
        arrived(&included, &customers["body"].to_string(), 1).await?;
        for request in arrived(&incoming, &closed["body"].to_string(), 3).await? {
            assert_eq!(request.header("authorization"), Some("Basic YTpi"));
        }
        arrived(&incoming, &customers["body"].to_string(), 1).await?;
        fanfare.balance().await?;
        assert_eq!(times(&incoming, &agents["body"].to_string()), 0, "an agent's message is not asked for");
        assert_eq!(times(&included, &closed["body"].to_string()), 0);
        assert_eq!(times(&incoming, &closed["body"].to_string()), 3, "retried until 200");
        Ok(())
    });
}

#[test]
fn tracebuzz_gives_up_after_ten_retries_and_disables_the_webhook() {
    story(async {
        // Three days of waiting in a few seconds.
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SCHEDULER__SPEED", "36000")]).await?;
        let tenant = fanfare.tenant_of("profile", "tracebuzz").await?;
        let receiver = Receiver::start().await?;
        let webhook = webhook(&tenant.client, &receiver, &["profileMerged"], json!({})).await?;
        receiver.answer(500);
        let merged = |new: u32| {
            let data = json!({ "oldPersonId": 1, "newPersonId": new });
            event(&json!({ "type": "profileMerged", "time": "2022-09-22T11:16:56Z", "data": data }))
        };
        let body = |new: u32| {
            format!(r#"{{"event":"profileMerged","oldPersonId":1,"newPersonId":{new},"timestamp":1663845416}}"#)
        };
        let first = tenant.client.publish(&merged(1)).await?;
        let attempts = arrived(&receiver, &body(1), 11).await?;
        for (at, request) in attempts.iter().enumerate() {
            assert_eq!(request.header("fanfare-attempt"), Some((at + 1).to_string().as_str()));
        }
        tenant.delivery_that_is(&first, "failed").await?;
        let deadline = std::time::Instant::now() + PATIENCE;
        while tenant.client.webhook(&webhook.id).await?.fields["disabled"]["reason"] != "exhausted" {
            ensure!(std::time::Instant::now() < deadline, "the webhook was never disabled");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let second = tenant.client.publish(&merged(2)).await?;
        tenant.delivery_that_is(&second, "held").await?;
        fanfare.balance().await?;
        assert_eq!((times(&receiver, &body(1)), times(&receiver, &body(2))), (11, 0));
        Ok(())
    });
}

#[test]
fn what_fanfare_itself_says_can_be_subscribed_to_under_every_catalog_and_published_by_nobody() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        let own = ["fanfare.webhook.disabled", "fanfare.delivery.exhausted"];
        for catalog in ["standard", "apirtc", "capturi", "ebbot", "structurely", "tracebuzz"] {
            let tenant = fanfare.tenant_of(catalog, catalog).await?;
            for (path, list) in [("/v1/event-types", "eventTypes"), ("/v1/triggers", "triggers")] {
                let listed = tenant.client.get(path).await?;
                let names = listed[list].as_array().into_iter().flatten().map(|one| &one["name"]);
                assert_eq!(names.filter(|name| own.iter().any(|own| *name == own)).count(), 2, "{catalog} {path}");
            }
            let receiver = Receiver::start().await?;
            let subscribed = webhook(&tenant.client, &receiver, &own, json!({})).await?;
            for kind in own {
                let published =
                    tenant.client.offer(&event(&json!({ "type": kind, "subject": "1", "data": {} }))).await?;
                assert_eq!(
                    (published.status, &published.json()["errors"][0]["field"]),
                    (422, &json!("type")),
                    "{kind}"
                );
                // Asked for as an example, it arrives as Standard Webhooks have it.
                let ping = format!("/v1/webhooks/{}/ping", subscribed.id);
                tenant.client.post(&ping, &json!({ "eventType": kind })).await?;
                let signed = |request: &Recorded| request.verify(&subscribed.secret).is_ok();
                let arrives = |request: &Recorded| request.json()["type"] == kind && signed(request);
                let request = receiver.wait_for_one(PATIENCE, arrives).await?;
                assert_eq!(
                    request.json().as_object().map(|it| it.keys().cloned().collect::<Vec<_>>()).unwrap_or_default(),
                    ["type", "timestamp", "data"]
                );
                assert_eq!(
                    (request.header("user-agent"), request.header("content-type")),
                    (Some(OURS), Some("application/json"))
                );
            }
        }
        publisher.publish("ebbot", &event(&json!({ "type": own[0], "data": {} }))).await?;
        while crate::fanfare::broker().await?.ready(&fanfare.vhost, "fanfare.rejected").await? < 1 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        fanfare.balance().await
    });
}

#[test]
fn an_event_without_a_time_has_that_of_its_acceptance_on_every_attempt() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SCHEDULER__SPEED", "600")]).await?;
        for (catalog, time, unit) in [
            ("apirtc", "time", Duration::from_secs(1)),
            ("ebbot", "timestamp", Duration::from_millis(1)),
            ("tracebuzz", "timestamp", Duration::from_secs(1)),
        ] {
            let tenant = fanfare.tenant_of(catalog, catalog).await?;
            let documented =
                PRODUCTS.iter().find(|product| product.catalog == catalog).context("a product")?.documented;
            let examples: Vec<Value> = serde_json::from_str(documented)?;
            let event = event(&examples[0]["event"]).without("time").without("requestid");
            let receiver = Receiver::start().await?;
            webhook(&tenant.client, &receiver, &[event.kind()], json!({})).await?;
            receiver.take();
            receiver.answer_in_turn([503, 503, 200]);
            let units =
                |at: SystemTime| Ok::<_, anyhow::Error>(at.duration_since(UNIX_EPOCH)?.as_nanos() / unit.as_nanos());
            let before = units(SystemTime::now())?;
            let accepted = tenant.client.publish(&event).await?;
            let after = units(SystemTime::now())?;
            tenant.delivery_that_is(&accepted, "delivered").await?;
            let attempts = receiver.take();
            assert_eq!(attempts.len(), 3, "{catalog}");
            assert!(attempts.iter().all(|attempt| attempt.body == attempts[0].body), "{catalog}");
            let told = u128::from(attempts[0].json()[time].as_u64().context("a time")?);
            assert!((before..=after).contains(&told), "{catalog}: {told} is not from {before} to {after}");
            if catalog == "ebbot" {
                assert_eq!(attempts[0].json()["requestId"], event.id(), "without one of its own, the event's id");
            }
        }
        fanfare.balance().await
    });
}

/// "It's possible to see all webhook requests made up to 7 days after they are made": the setting's default, and here 3 s.
#[test]
fn capturis_log_shows_each_request_with_its_response_until_its_time_is_over() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_LOG__RETENTION", "3s")]).await?;
        let tenant = fanfare.tenant_of("acme", "capturi").await?;
        let receiver = Receiver::answering(Answer::status(201).header("x-seen", "yes").body("thanks")).await?;
        let fields = json!({ "method": "PUT", "payload": "identity", "headers": { "X-Team": "care" } });
        webhook(&tenant.client, &receiver, &["LiveSummaryCreated"], fields).await?;
        let types = tenant.client.event_types().await?;
        let live = types.iter().find(|kind| kind.name == "LiveSummaryCreated").context("the catalog's")?;
        let published = tenant.client.publish(&Event::from_example(&live.name, &live.examples[0])).await?;
        let logged = tenant.delivery_that_is(&published, "delivered").await?;
        let attempt = &logged["attempts"][0];
        let (request, response) = (&attempt["request"], &attempt["response"]);
        assert_eq!(request["method"], "PUT");
        assert_eq!(request["url"], receiver.url("/hook?of=product"));
        let got = &receiver.take()[0];
        assert_eq!(
            request["body"].as_str().map(str::as_bytes),
            Some(got.body.as_ref()),
            "what was sent, byte for byte"
        );
        assert_eq!((&response["status"], &response["body"]), (&json!(201), &json!("thanks")));

        let id = logged["id"].as_str().context("an id")?;
        let deadline = std::time::Instant::now() + PATIENCE;
        while tenant.client.ask("GET", &format!("/v1/deliveries/{id}"), None).await?.status != 404 {
            ensure!(std::time::Instant::now() < deadline, "the log never lets it go");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(tenant.client.deliveries("limit=100").await?.is_empty());
        fanfare.balance().await
    });
}

/// The checkout's root.
fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `fanfare-api --check-catalog` says of a file, without any setting: exit code, output, errors.
async fn checked(file: PathBuf) -> Result<(Option<i32>, String, String)> {
    let api = Binaries::of_profile("debug").path(Service::Api);
    let asked = move || Command::new(api).env_clear().arg("--check-catalog").arg(file).output();
    let answer = tokio::task::spawn_blocking(asked).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((answer.status.code(), text(&answer.stdout), text(&answer.stderr)))
}

#[test]
fn the_guides_catalog_is_checked_loaded_and_delivered_from() {
    story(async {
        let (guide, folder) = (checkout().join("docs/catalogs.md"), checkout().join("docs/catalogs"));
        let (guide, file) = (std::fs::read_to_string(guide)?, folder.join("tidewater.yaml"));
        let catalog = std::fs::read_to_string(&file)?;
        let blocks = |kind: &str| {
            let opening = format!("```{kind}\n");
            let blocks = guide.split(&opening).skip(1).filter_map(|rest| rest.split("```").next());
            blocks.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(blocks("yaml").iter().all(|block| catalog.contains(block)), "the guide shows what the file says");

        let (code, printed, errors) = checked(file).await?;
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        assert!(blocks("text").iter().all(|block| printed.contains(block)), "{printed}");
        let sandbox = fanfare_local::Sandbox::new()?;
        for (what, instead, place, reason) in [
            ("$unix,", "now,", ":12:11: ", "a template has no function `now`"),
            ("name: ship.departed", "name: ship.arrived", ":53:11: ", "event type `ship.arrived` stands twice"),
            ("\"draught\": 4.2,\n", "\"draught\": 4.3,\n", ":", "its body in full goes on"),
            ("name: tidewater", "name: standard", ": ", "there is a catalog `standard` already"),
            ("settable:", "collection: deliveries\n  settable:", ": ", "which is a route of its own"),
            ("format: 1", "format: [1]", ":3:9: ", "format: invalid type: sequence"),
            ("maxHeaders: 4", "maxHeaders: }", ":", "did not find expected"),
        ] {
            let wrong = sandbox.logs().join("wrong.yaml");
            ensure!(catalog.contains(what), "`{what}` is in the file");
            std::fs::write(&wrong, catalog.replacen(what, instead, 1))?;
            let (code, printed, errors) = checked(wrong.clone()).await?;
            assert_eq!((code, printed.as_str()), (Some(1), ""), "{instead}");
            assert!(errors.starts_with(&format!("{}{place}", wrong.display())) && errors.contains(reason), "{errors}");
        }

        let path = folder.to_str().context("a path in UTF-8")?;
        let mut fanfare = Fanfare::start_with(&[("FANFARE_CATALOGS__PATH", path)]).await?;
        let tenant = fanfare.tenant_of("oban", "tidewater").await?;
        let (full, identity, deep) = (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        let secret = webhook(&tenant.client, &full, &["ship.any"], json!({})).await?.secret;
        webhook(&tenant.client, &identity, &["ship.arrived"], json!({ "payload": "identity" })).await?;
        webhook(&tenant.client, &deep, &["ship.deep"], json!({})).await?;
        let examples = tenant.client.event_types().await?;
        let arrived_example = event(&examples[0].examples[0]["event"]);
        tenant.client.publish(&arrived_example).await?;
        tenant.client.publish(&event(&examples[1].examples[0]["event"])).await?;
        let deeper = json!({ "berth": "N3", "draught": 6.5 });
        tenant.client.publish(&arrived_example.clone().with("id", "deep").with("data", deeper)).await?;

        // What arrives is what the check has printed.
        for (receiver, body) in [
            (&full, examples[0].examples[0]["body"]["full"].to_string()),
            (&full, r#"{"kind":"ship.departed","at":1777920000,"harbour":"oban","ship":"9074729"}"#.to_owned()),
        ] {
            let request = arrived(receiver, &body, 1).await?[0].clone();
            request.verify(&secret)?;
            let header = |name| request.header(name).unwrap_or_default().to_owned();
            let head = format!(
                "POST <target>\nuser-agent: {}\nx-tidewater-event: {}\ncontent-type: {}\nx-tidewater-secret: <secret>\n\n{body}\n",
                header("user-agent"),
                header("x-tidewater-event"),
                header("content-type")
            );
            assert!(printed.contains(&head), "{head}");
            assert_eq!(header("x-tidewater-secret"), secret);
        }
        let id = examples[0].examples[0]["body"]["identity"].to_string();
        arrived(&identity, &id, 2).await?;
        deep.wait_for(1, PATIENCE).await?;
        fanfare.balance().await?;
        assert_eq!((full.count(), identity.count(), deep.count()), (3, 2, 1));
        assert_eq!(deep.requests()[0].json()["draught"], 6.5);
        Ok(())
    });
}
