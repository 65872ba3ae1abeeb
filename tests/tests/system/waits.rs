//! Delays live in the broker: a long one holds no short one up, and a restart loses none.

use std::time::{Duration, Instant};

use anyhow::Result;
use fanfare_local::{Broker, Receiver, Redis, Sandbox};
use serde_json::json;

use crate::fanfare::{Fanfare, order, requests, story};

#[test]
fn ten_hours_published_first_do_not_hold_up_300_ms() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let (long, short) = (Receiver::answering(503).await?, Receiver::start().await?);
        tenant.webhook_with(&long, "order.paid", &json!({ "retrySchedule": ["10h"] })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&long, 1).await?;
        short.answer_in_turn([500, 200]);
        tenant.webhook_with(&short, "order.sent", &json!({ "retrySchedule": ["300ms"] })).await?;
        tenant.client.publish(&order("order.sent", 2)).await?;
        let got = requests(&short, 2).await?;
        assert!(got[1].at.duration_since(got[0].at)? >= Duration::from_millis(300), "never early");
        let pending = tenant.delivery_that_is(&event, "pending").await?;
        assert_eq!(pending["attempts"].as_array().map(Vec::len), Some(1));
        // The long one is in the tier that fits; cancelled, so that the books balance without it.
        let id = pending["id"].as_str().unwrap();
        assert_eq!(tenant.client.ask("POST", &format!("/v1/deliveries/{id}/cancel"), None).await?.status, 202);
        tenant.delivery_that_is(&event, "cancelled").await?;
        fanfare.balance().await
    });
}

#[test]
fn a_wait_outlives_a_restart_of_the_broker_and_of_the_scheduler() {
    story(async {
        let sandbox = Sandbox::new()?;
        let redis = Redis::start(&sandbox).await?;
        let mut broker = Broker::start(&sandbox).await?;
        let mut fanfare = Fanfare::start_over(sandbox, redis, &broker, &[]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        receiver.answer_in_turn([500, 200]);
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["4s"] })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        let due = Instant::now() + Duration::from_secs(4);
        tokio::time::sleep(Duration::from_millis(500)).await;
        fanfare.services.scheduler.kill();
        broker.stop().await?;
        broker.start_again().await?;
        fanfare.services.scheduler.start_again().await?;
        tenant.delivery_that_is(&event, "delivered").await?;
        assert!(Instant::now() >= due, "never early");
        assert_eq!(receiver.count(), 2);
        Ok(())
    });
}

#[test]
fn a_pending_retry_can_be_had_now() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        receiver.answer_in_turn([500, 200]);
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["2s", "2s"] })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        let id = pending_retry(&tenant, &event).await?;
        assert_eq!(tenant.client.ask("POST", &format!("/v1/deliveries/{id}/retry"), None).await?.status, 202);
        tenant.delivery_that_is(&event, "delivered").await?;
        let took = receiver.requests()[1].at.duration_since(receiver.requests()[0].at)?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 2, "the copy in the tier is stale when it comes, {took:?}");
        Ok(())
    });
}

async fn pending_retry(tenant: &crate::fanfare::Tenant, event: &str) -> Result<String> {
    loop {
        let delivery = tenant.delivery_that_is(event, "pending").await?;
        if delivery["attempts"].as_array().is_some_and(|attempts| attempts.len() == 1) {
            return Ok(delivery["id"].as_str().unwrap_or_default().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
