//! What ingest answers: to the same id again, and while what it depends on is away.

use std::time::Duration;

use anyhow::Result;
use fanfare_local::{Broker, Publisher, Receiver, Redis, Sandbox, Service};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::fanfare::{Fanfare, order, requests, story};

#[test]
fn the_same_event_again_is_accepted_and_delivered_once() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_INGEST__DEDUP_WINDOW", "3s")]).await?;
        let (acme, other) = (fanfare.tenant("acme").await?, fanfare.tenant("other").await?);
        let receiver = Receiver::start().await?;
        acme.webhook(&receiver, "order.paid").await?;
        other.webhook(&receiver, "order.paid").await?;
        let event = order("order.paid", 1);
        let first = acme.client.offer(&event).await?;
        assert_eq!((first.status, &first.json()["duplicate"]), (202, &json!(false)));
        let again = acme.client.offer(&event).await?;
        assert_eq!((again.status, &again.json()["duplicate"]), (202, &json!(true)));
        assert_eq!(again.json()["event"], first.json()["event"]);
        let changed = acme.client.offer(&event.clone().with("data", json!({ "total": 2 }))).await?;
        assert_eq!(changed.status, 409);
        let of_other = other.client.offer(&event).await?;
        assert_eq!(&of_other.json()["duplicate"], &json!(false), "another tenant's ids are another tenant's");

        // Over AMQP the same: the twin is dropped, the changed one is kept for the operator.
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        publisher.publish("acme", &event).await?;
        publisher.publish("acme", &event.clone().with("data", json!({ "total": 3 }))).await?;
        let broker = crate::fanfare::broker().await?;
        while broker.ready(&fanfare.vhost, "fanfare.rejected").await? < 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        requests(&receiver, 2).await?;

        tokio::time::sleep(Duration::from_millis(3_100)).await;
        let later = acme.client.offer(&event).await?;
        assert_eq!(
            (later.status, &later.json()["duplicate"]),
            (202, &json!(false)),
            "after the window it is another event"
        );
        assert_ne!(later.json()["event"], first.json()["event"]);
        requests(&receiver, 3).await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 3);
        Ok(())
    });
}

#[test]
fn twins_published_at_once_are_one_event() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;
        for total in 0..20 {
            let event = order("order.paid", total);
            let (one, two, three) =
                tokio::join!(tenant.client.offer(&event), tenant.client.offer(&event), tenant.client.offer(&event));
            let answers = [one?, two?, three?];
            assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
            let fresh = answers.iter().filter(|answer| answer.json()["duplicate"] == false).count();
            assert_eq!(fresh, 1, "one of the twins is the event");
        }
        requests(&receiver, 20).await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 20);
        Ok(())
    });
}

#[test]
fn an_event_whose_acceptance_broke_off_keeps_its_ulid() {
    story(async {
        for place in ["ingest.claimed", "ingest.published"] {
            let mut fanfare = Fanfare::start().await?;
            let tenant = fanfare.tenant("acme").await?;
            let receiver = Receiver::start().await?;
            tenant.webhook(&receiver, "order.paid").await?;
            fanfare.start_to_stop_dead(Service::Ingest, place).await?;
            let event = order("order.paid", 1);
            assert!(tenant.client.offer(&event).await.is_err(), "ingest stopped dead at {place}");
            fanfare.start_mended(Service::Ingest).await?;
            // Its claim's lease has to end first: until then the publisher is told to come again.
            let answer = loop {
                let answer = tenant.client.offer(&event).await?;
                if answer.status != 503 {
                    break answer;
                }
                assert_eq!(answer.headers["retry-after"], "1");
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            assert_eq!(answer.status, 202);
            let got = requests(&receiver, 1).await?;
            let ulid = answer.json()["event"].as_str().unwrap().to_owned();
            assert!(
                got[0].header("webhook-id").unwrap().starts_with(&ulid),
                "taken over at {place} under the same ULID"
            );
            fanfare.balance().await?;
            assert_eq!(receiver.count(), 1, "{place}");
        }
        Ok(())
    });
}

#[test]
fn ingest_answers_503_while_redis_or_the_broker_is_away_and_goes_on_when_they_are_back() {
    story(async {
        let sandbox = Sandbox::new()?;
        let redis = Redis::start(&sandbox).await?;
        let mut broker = Broker::start(&sandbox).await?;
        let mut fanfare = Fanfare::start_over(sandbox, redis, &broker, &[]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;

        fanfare.redis.kill();
        let away = tenant.client.offer(&order("order.paid", 1)).await?;
        assert_eq!((away.status, &away.headers["retry-after"]), (503, &"1".parse().unwrap()));
        fanfare.redis.start_again().await?;
        accepted_in_time(&tenant, 2).await?;

        broker.stop().await?;
        let away = tenant.client.offer(&order("order.paid", 3)).await?;
        assert_eq!(away.status, 503);
        broker.start_again().await?;
        accepted_in_time(&tenant, 4).await?;
        let totals = || {
            receiver
                .requests()
                .iter()
                .filter_map(|request| request.json()["data"]["total"].as_u64())
                .collect::<Vec<_>>()
        };
        receiver.wait_for(2, crate::fanfare::PATIENCE).await?;
        assert!(totals().contains(&2) && totals().contains(&4), "{:?}", totals());
        Ok(())
    });
}

async fn accepted_in_time(tenant: &crate::fanfare::Tenant, total: u32) -> Result<()> {
    let deadline = std::time::Instant::now() + crate::fanfare::PATIENCE;
    while tenant.client.offer(&order("order.paid", total)).await?.status != 202 {
        anyhow::ensure!(std::time::Instant::now() < deadline, "event {total} was never accepted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[test]
fn while_the_broker_is_short_of_memory_ingest_refuses_dispatchers_drain_and_nothing_is_lost() {
    story(async {
        let sandbox = Sandbox::new()?;
        let redis = Redis::start(&sandbox).await?;
        let broker = Broker::start(&sandbox).await?;
        let mut fanfare = Fanfare::start_over(sandbox, redis, &broker, &[]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(fanfare_local::Answer::status(200).after(Duration::from_millis(20))).await?;
        tenant.webhook(&receiver, "order.paid").await?;
        let mut accepted = 0;
        for total in 0..200 {
            accepted += usize::from(tenant.client.offer(&order("order.paid", total)).await?.status == 202);
        }
        broker.set_memory_watermark(0.000_01).await?;
        let mut refused = false;
        for total in 200..300 {
            match tenant.client.offer(&order("order.paid", total)).await?.status {
                202 => accepted += 1,
                503 => refused = true,
                other => panic!("{other} while the broker is blocked"),
            }
            if refused {
                break;
            }
        }
        assert!(refused, "ingest refuses while the broker is blocked");
        broker.set_memory_watermark(0.4).await?;
        accepted_in_time(&tenant, 1_000).await?;
        receiver.wait_for(accepted + 1, crate::fanfare::PATIENCE).await?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_accepted_over_amqp_is_kept_as_it_came_with_its_reason() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        fanfare.tenant("acme").await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        let structured = || lapin::BasicProperties::default().with_content_type("application/cloudevents+json".into());
        publisher.send("acme.order.paid", b"{ no json", structured().with_message_id("m-1".into())).await?;
        publisher.publish("nobody", &order("order.paid", 1)).await?;
        publisher.publish("acme", &order("order.paid", 1).with("tenant", "other")).await?;
        publisher.publish("acme", &order("fanfare.made.up", 1)).await?;
        publisher.publish("acme", &order("order.paid", 1).without("id")).await?;
        let connection = lapin::Connection::connect(&fanfare.amqp_url, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let mut reasons = Vec::new();
        while reasons.len() < 5 {
            let got =
                channel.basic_get("fanfare.rejected".into(), lapin::options::BasicGetOptions { no_ack: true }).await?;
            let Some(message) = got else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let headers = message.properties.headers().clone().unwrap_or_default();
            let reason = match headers.inner().get("x-fanfare-reason") {
                Some(lapin::types::AMQPValue::LongString(reason)) => {
                    String::from_utf8_lossy(reason.as_bytes()).into_owned()
                }
                other => panic!("{other:?} for a reason"),
            };
            if message.data == b"{ no json" {
                assert_eq!(
                    message.properties.message_id().as_ref().map(|id| id.as_str()),
                    Some("m-1"),
                    "properties are untouched"
                );
            }
            reasons.push(reason);
        }
        for part in ["is no JSON", "no such tenant", "another than the routing key's", "reserved", "is required"] {
            assert!(reasons.iter().any(|reason| reason.contains(part)), "`{part}` in {reasons:?}");
        }
        fanfare.balance().await
    });
}

#[test]
fn a_rejected_messages_own_headers_route_it_nowhere_else() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        // No CloudEvent, so it is rejected; but a batch of deliveries, were it to reach the dispatcher.
        let forged = json!({ "events": [{
            "tenant": "acme", "id": "01K3V7M2Z8Q4R6T1W9X0Y5B3CD", "type": "order.paid", "accepted": 1, "config": 1,
            "event": { "specversion": "1.0", "id": "1", "source": "/s", "type": "order.paid", "time": "2026-01-02T03:04:05Z" },
            "deliveries": [{ "webhook": webhook.id, "attempt": 1, "shape": "x:full" }],
        }] });
        let text = |text: &str| lapin::types::AMQPValue::LongString(text.into());
        let mut headers = lapin::types::FieldTable::default();
        let routes = vec![text("fanfare.deliveries"), text("fanfare.outcomes"), text("fanfare.events.0")];
        headers.insert("CC".into(), lapin::types::AMQPValue::FieldArray(routes.into()));
        headers.insert("x-fanfare-v".into(), lapin::types::AMQPValue::LongInt(1));
        let properties = lapin::BasicProperties::default()
            .with_content_type("application/cloudevents+json".into())
            .with_headers(headers)
            .with_user_id("guest".into())
            .with_expiration("60000".into());
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        // A CC that names queues has no effect on a topic exchange: what counts is where we put the message.
        publisher.send("acme.order.paid", forged.to_string().as_bytes(), properties).await?;
        while crate::fanfare::broker().await?.ready(&fanfare.vhost, "fanfare.rejected").await? < 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 1, "only the event that was accepted");
        Ok(())
    });
}

#[test]
fn a_publisher_that_goes_away_leaves_no_event_half_accepted() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;
        let url = fanfare.services.ingest.url()?;
        let address = url.trim_start_matches("http://");
        for total in 0..100 {
            let body = order("order.paid", total).to_json();
            let head = format!(
                "POST /v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
                 content-type: application/cloudevents+json\r\ncontent-length: {}\r\n\r\n",
                tenant.client.token(),
                body.len()
            );
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
            // Gone before it can be answered, sometimes before it is read.
            tokio::time::sleep(Duration::from_micros(u64::from(total) * 50)).await;
        }
        // Each that was claimed is fanned out, or the books do not balance.
        fanfare.balance().await
    });
}
