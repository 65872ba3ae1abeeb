//! Failures come back: after the schedule's waits, or the receiver's own; until a success, or the end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fanfare_local::{Answer, Receiver};
use serde_json::json;

use crate::fanfare::{Fanfare, PATIENCE, Tenant, broker, headers_beside_https, order, requests, story};

async fn answers(
    tenant: &Tenant,
    receiver: &Receiver,
    answers: Vec<Answer>,
    schedule: &[&str],
) -> Result<serde_json::Value> {
    receiver.answer_in_turn(answers);
    let webhook = tenant.webhook_with(receiver, "order.paid", &json!({ "retrySchedule": schedule })).await?;
    let event = tenant.client.publish(&order("order.paid", 1)).await?;
    let delivery = tenant.delivery_that_is(&event, "delivered").await?;
    tenant.client.delete(&format!("/v1/webhooks/{}", webhook.id)).await?;
    Ok(delivery)
}

#[test]
fn whatever_fails_is_tried_again_under_the_same_id_until_it_succeeds() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let elsewhere = Receiver::start().await?;
        let receiver = Receiver::start().await?;
        let ways = vec![
            Answer::status(500),
            Answer::redirect(302, &elsewhere.url("/other")),
            Answer::close(),
            Answer::hang(),
            Answer::status(200).body("half of this").cut(),
            Answer::status(200),
        ];
        let delivery = answers(&tenant, &receiver, ways, &["200ms", "100ms", "100ms", "100ms", "100ms"]).await?;
        let got = requests(&receiver, 6).await?;
        let ids: std::collections::BTreeSet<_> = got.iter().map(|request| request.header("webhook-id")).collect();
        assert_eq!(ids.len(), 1, "every attempt has the same id");
        let attempts: Vec<_> = got.iter().filter_map(|request| request.header("fanfare-attempt")).collect();
        assert_eq!(attempts, ["1", "2", "3", "4", "5", "6"]);
        assert!(got.iter().all(|request| request.body == got[0].body), "one id never has two bodies");
        assert!(got[1].at.duration_since(got[0].at)? >= Duration::from_millis(200), "never early");
        assert_eq!(elsewhere.count(), 0, "redirects are not followed");
        let logged = delivery["attempts"].as_array().unwrap();
        assert_eq!(logged.len(), 6);
        assert!(logged[3]["error"].as_str().unwrap().contains("within 2 s"), "{}", logged[3]["error"]);
        assert_eq!(logged[0]["response"]["status"], 500);
        for (logged, got) in logged.iter().zip(&got) {
            assert_eq!(logged["request"]["headers"], headers_beside_https(got), "the log names what was sent");
        }
        fanfare.balance().await
    });
}

#[test]
fn a_delivery_that_uses_up_its_schedule_has_failed() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(503).await?;
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["100ms", "100ms"] })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        let delivery = tenant.delivery_that_is(&event, "failed").await?;
        assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(3));
        assert_eq!(receiver.count(), 3);
        fanfare.balance().await
    });
}

#[test]
fn a_410_disables_the_webhook_and_what_comes_later_is_held() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(410).await?;
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        tenant.delivery_that_is(&event, "failed").await?;
        loop {
            let disabled = tenant.client.webhook(&webhook.id).await?.fields["disabled"].clone();
            if disabled["reason"] == "gone" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let event = tenant.client.publish(&order("order.paid", 2)).await?;
        tenant.delivery_that_is(&event, "held").await?;
        assert_eq!(receiver.count(), 1);
        fanfare.balance().await
    });
}

#[test]
fn a_receiver_that_asks_for_time_gets_it_for_the_whole_webhook() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        receiver.answer_in_turn([Answer::status(429).header("retry-after", "2"), Answer::status(200)]);
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["100ms"] })).await?;
        let first = tenant.client.publish(&order("order.paid", 1)).await?;
        let asked = requests(&receiver, 1).await?[0].at;
        // Published while the receiver wants no requests: it waits, too.
        tenant.delivery_that_is(&first, "pending").await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let second = tenant.client.publish(&order("order.paid", 2)).await?;
        for event in [first, second] {
            tenant.delivery_that_is(&event, "delivered").await?;
        }
        for later in &receiver.requests()[1..] {
            assert!(
                later.at.duration_since(asked)? >= Duration::from_millis(1_990),
                "{:?}",
                later.at.duration_since(asked)
            );
        }
        fanfare.balance().await
    });
}

#[test]
fn one_hanging_webhook_costs_the_others_nothing() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_DISPATCHER__MAX_IN_FLIGHT_PER_WEBHOOK", "2")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let (hanging, healthy) = (Receiver::answering(Answer::hang()).await?, Receiver::start().await?);
        tenant.webhook_with(&hanging, "order.paid", &json!({ "retrySchedule": ["1s"] })).await?;
        tenant.webhook(&healthy, "order.paid").await?;
        for total in 0..40 {
            tenant.client.publish(&order("order.paid", total)).await?;
        }
        requests(&healthy, 40).await?;
        assert!(hanging.count() < 40, "the healthy one does not wait for the hanging one's end");
        assert!(hanging.requests().iter().all(|request| request.in_flight <= 2), "the cap holds");
        hanging.answer(200);
        fanfare.balance().await
    });
}

#[test]
fn what_is_done_behind_one_that_hangs_is_acked_without_it() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_DISPATCHER__TIMEOUT", "20s")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let (hanging, healthy) = (Receiver::answering(Answer::hang()).await?, Receiver::start().await?);
        tenant.webhook_with(&hanging, "order.held", &json!({ "retrySchedule": ["100ms"] })).await?;
        tenant.webhook(&healthy, "order.paid").await?;
        tenant.client.publish(&order("order.held", 1)).await?;
        requests(&hanging, 1).await?;
        for total in 0..10 {
            tenant.client.publish(&order("order.paid", total)).await?;
        }
        requests(&healthy, 10).await?;
        let unacked = async || {
            let depths = broker().await?.depths(&fanfare.vhost).await?;
            let deliveries = depths.iter().find(|queue| queue.name == "fanfare.deliveries");
            anyhow::Ok(deliveries.map_or(0, |queue| queue.unacked))
        };
        let deadline = Instant::now() + PATIENCE;
        while unacked().await? != 1 {
            ensure!(Instant::now() < deadline, "{} are unacked", unacked().await?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(hanging.count(), 1, "they were acked before its first attempt ended");
        drop(hanging); // what it keeps fails, and what follows is refused
        fanfare.balance().await
    });
}

#[test]
fn a_failure_whose_record_redis_has_lost_comes_again() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        receiver.answer_in_turn([Answer::status(500).after(Duration::from_secs(1)), Answer::status(200)]);
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        // As after a restart without the last second: the claim is gone while its request is under way.
        let mut redis = fanfare.redis_connection().await?;
        let key = format!("f:{{acme}}:e:{event}");
        let lost: u32 = redis::cmd("HDEL").arg(&key).arg(&webhook.id).query_async(&mut redis).await?;
        assert_eq!(lost, 1);
        tenant.delivery_that_is(&event, "delivered").await?;
        assert_eq!(receiver.count(), 2);
        Ok(())
    });
}
