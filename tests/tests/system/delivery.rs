//! An event reaches its receiver, signed, in every form it can be published in.

use fanfare_local::{Answer, Event, Publisher, Receiver};
use serde_json::json;

use crate::fanfare::{Fanfare, headers_beside_https, order, requests, story};

#[test]
fn an_event_reaches_its_receiver_in_every_form_it_can_be_published_in() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        let other = tenant.webhook(&receiver, "order.sent").await?;
        assert_ne!(webhook.secret, other.secret);

        let event = order("order.paid", 1).with("time", "2026-01-02T03:04:05.678Z");
        tenant.client.publish(&event).await?; // structured
        let batch = format!("[{},{}]", order("order.paid", 2).to_json(), order("order.paid", 3).to_json());
        let answered =
            tenant.client.post_events(&[("content-type", "application/cloudevents-batch+json")], batch).await?;
        assert_eq!((answered.status, answered.json().as_array().map(Vec::len)), (202, Some(2)));
        let binary = [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "b%201"),
            ("ce-source", "/s"),
            ("ce-type", "order.paid"),
        ];
        let answered = tenant.client.post_events(&binary, r#"{"total": 4}"#).await?;
        assert_eq!((answered.status, answered.json()["id"].as_str()), (202, Some("b 1")));
        let plain = tenant
            .client
            .post_events(&[("content-type", "application/json")], r#"{"type":"order.paid","data":{"total":5}}"#)
            .await?;
        assert_eq!(plain.status, 202);
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        publisher.publish(&tenant.id, &order("order.paid", 6)).await?;
        publisher.publish_binary(&tenant.id, &order("order.paid", 7)).await?;

        let got = requests(&receiver, 7).await?;
        let mut totals: Vec<u64> = got.iter().filter_map(|request| request.json()["data"]["total"].as_u64()).collect();
        totals.sort_unstable();
        assert_eq!(totals, [1, 2, 3, 4, 5, 6, 7]);
        for request in &got {
            request.verify(&webhook.secret)?;
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/hook"));
            assert_eq!(request.header("fanfare-attempt"), Some("1"));
            assert!(
                request.header("fanfare-first-attempt").is_some() && request.header("fanfare-redelivery").is_none()
            );
            assert_eq!(request.json()["type"], "order.paid");
        }
        let first = got.iter().find(|request| request.json()["data"]["total"] == 1).unwrap();
        assert_eq!(
            std::str::from_utf8(&first.body)?,
            r#"{"type":"order.paid","timestamp":"2026-01-02T03:04:05.678Z","data":{"total":1,"currency":"EUR","price":1.5}}"#
        );
        fanfare.balance().await
    });
}

#[test]
fn a_large_event_reaches_many_webhooks_whole() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        for _ in 0..40 {
            tenant.webhook(&receiver, "report.made").await?;
        }
        let lines: Vec<String> = (0..2_000).map(|line| format!("line {line}")).collect();
        tenant.client.publish(&Event::new("report.made", json!({ "lines": lines }))).await?;
        let got = requests(&receiver, 40).await?;
        assert!(got.iter().all(|request| request.json()["data"]["lines"][1_999] == "line 1999"));
        fanfare.balance().await
    });
}

#[test]
fn a_catalog_shapes_the_request() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant_of("acme", "capturi").await?;
        let receiver = Receiver::start().await?;
        let headers = json!({ "X-Team": "blue", "Authorization": "Basic abc" });
        let full = json!({ "method": "PUT", "headers": headers, "target": receiver.url("/full?a=1&a=2&b=%2F") });
        let full = tenant.webhook_with(&receiver, "LiveSummaryCreated", &full).await?;
        tenant
            .webhook_with(
                &receiver,
                "LiveSummaryCreated",
                &json!({ "payload": "identity", "target": receiver.url("/identity") }),
            )
            .await?;
        let types = tenant.client.event_types().await?;
        let example = types.iter().find(|kind| kind.name == "LiveSummaryCreated").unwrap().examples[0].clone();
        let uid = example["event"]["subject"].clone();
        let event = Event::from_example("LiveSummaryCreated", &example);
        tenant.client.publish(&event).await?;
        let got = requests(&receiver, 2).await?;
        let to = |path: &str| got.iter().find(|request| request.target.starts_with(path)).unwrap();
        let request = to("/full");
        request.verify(&full.secret)?;
        assert_eq!((request.method.as_str(), request.target.as_str()), ("PUT", "/full?a=1&a=2&b=%2F"));
        assert_eq!((request.header("x-team"), request.header("authorization")), (Some("blue"), Some("Basic abc")));
        let body = request.json();
        let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["eventUid", "event", "entity"]);
        assert_eq!((&body["event"], &body["entity"]), (&json!("LiveSummaryMessage"), event.data().unwrap()));
        assert_eq!(to("/identity").json(), json!({ "event": "LiveSummaryMessage", "uid": uid }));

        // What is wrong with an event by its catalog is told with its place, and nothing is sent.
        let wrong = tenant.client.offer(&event.clone().with("id", "2").with("data", json!({ "uid": 7 }))).await?;
        assert_eq!(wrong.status, 422);
        let unknown = tenant.client.offer(&order("order.paid", 1)).await?;
        assert_eq!((unknown.status, &unknown.json()["errors"][0]["field"]), (422, &json!("type")));
        fanfare.balance().await
    });
}

#[test]
fn the_log_tells_what_was_sent_and_what_came_back() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver =
            Receiver::answering(Answer::status(201).header("x-receiver", "yes").body("x".repeat(40_000))).await?;
        let webhook =
            tenant.webhook_with(&receiver, "order.paid", &json!({ "headers": { "X-Token": "hush" } })).await?;
        let event = tenant.client.publish(&order("order.paid", 9)).await?;
        let delivery = tenant.delivery_that_is(&event, "delivered").await?;
        let attempt = &delivery["attempts"][0];
        assert_eq!(attempt["request"]["url"], webhook.target);
        assert_eq!(attempt["request"]["method"], "POST");
        assert_eq!(attempt["response"]["status"], 201);
        assert_eq!(attempt["response"]["body"].as_str().map(str::len), Some(16 * 1024));
        let sent = requests(&receiver, 1).await?;
        assert_eq!(attempt["request"]["body"].as_str().unwrap().as_bytes(), &sent[0].body[..]);
        let mut headers = headers_beside_https(&sent[0]);
        headers["x-token"] = "***".into();
        assert_eq!(attempt["request"]["headers"], headers);
        let text = delivery.to_string();
        assert!(!text.contains("hush") && !text.contains(&webhook.secret), "the log holds no secret");

        let explained = tenant.client.get(&format!("/v1/events/{event}")).await?;
        assert_eq!(explained["type"], "order.paid");
        let nobody = tenant.client.publish(&order("order.unknown", 1)).await?;
        assert_eq!(tenant.client.deliveries(&format!("event={nobody}")).await?.len(), 0);
        fanfare.balance().await
    });
}

#[test]
fn a_ping_answers_with_the_attempt_and_a_rotated_secret_signs_beside_the_old_one() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(Answer::status(418).body("teapot")).await?;
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        let attempt = tenant.client.post(&format!("/v1/webhooks/{}/ping", webhook.id), &json!({})).await?;
        assert_eq!((&attempt["response"]["status"], &attempt["response"]["body"]), (&json!(418), &json!("teapot")));
        receiver.answer(200);
        tenant
            .client
            .post(&format!("/v1/webhooks/{}/secret/rotate", webhook.id), &json!({ "graceSeconds": 600 }))
            .await?;
        let rotated = tenant.client.webhook(&webhook.id).await?;
        assert_ne!(rotated.secret, webhook.secret);
        tenant.client.publish(&order("order.paid", 1)).await?;
        let got = requests(&receiver, 2).await?;
        got[0].verify(&webhook.secret)?;
        got[1].verify(&webhook.secret)?;
        got[1].verify(&rotated.secret)?;
        fanfare.balance().await
    });
}
