//! A change of a webhook is in force at once, and a Redis that comes back empty decides nothing.

use std::time::Duration;

use fanfare_local::{Event, Receiver};
use serde_json::json;

use crate::fanfare::{Fanfare, order, requests, story};

#[test]
fn an_event_published_right_after_a_webhooks_201_reaches_it() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let receiver = Receiver::start().await?;
        let mut published = 0;
        // A tenant's webhooks are read as one: many tenants with some webhooks each, as in life.
        for tenant in 0..10 {
            let tenant = fanfare.tenant(&format!("acme-{tenant}")).await?;
            for number in 0..100 {
                let kind = format!("order.paid.{number}");
                tenant.webhook(&receiver, &kind).await?;
                tenant.client.publish(&Event::new(&kind, json!({ "number": number }))).await?;
                published += 1;
            }
        }
        assert_eq!(published, 1_000);
        requests(&receiver, published).await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), published);
        Ok(())
    });
}

#[test]
fn a_changed_target_trigger_or_filter_is_in_force_at_once() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let (before, after) = (Receiver::start().await?, Receiver::start().await?);
        let webhook = tenant
            .webhook_with(
                &before,
                "order.paid",
                &json!({ "filter": { "data": { "total": [{ "numeric": [">", 100] }] } } }),
            )
            .await?;
        let path = format!("/v1/webhooks/{}", webhook.id);
        tenant.client.publish(&order("order.paid", 100)).await?;
        tenant.client.publish(&order("order.paid", 101)).await?;
        requests(&before, 1).await?;
        tenant.client.patch(&path, &json!({ "target": after.url("/hook"), "filter": null })).await?;
        tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&after, 1).await?;
        tenant.client.patch(&path, &json!({ "triggers": ["order.sent"] })).await?;
        tenant.client.publish(&order("order.paid", 2)).await?;
        tenant.client.publish(&order("order.sent", 3)).await?;
        assert_eq!(requests(&after, 2).await?[1].json()["data"]["total"], 3);
        tenant.client.patch(&path, &json!({ "active": false })).await?;
        let held = tenant.client.publish(&order("order.sent", 4)).await?;
        tenant.delivery_that_is(&held, "held").await?;
        tenant.client.delete(&path).await?;
        let nobodys = tenant.client.publish(&order("order.sent", 5)).await?;
        assert_eq!(tenant.client.deliveries(&format!("event={nobodys}")).await?.len(), 0);
        fanfare.balance().await?;
        assert_eq!((before.count(), after.count()), (1, 2));
        Ok(())
    });
}

#[test]
fn a_webhooks_pending_deliveries_are_cancelled_when_it_is_deleted() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(500).await?;
        let webhook = tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["1s"] })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        tenant.client.delete(&format!("/v1/webhooks/{}", webhook.id)).await?;
        tenant.delivery_that_is(&event, "cancelled").await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 1);
        Ok(())
    });
}

#[test]
fn a_redis_emptied_under_load_decides_nothing() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;
        for total in 0..50 {
            tenant.client.publish(&order("order.paid", total)).await?;
        }
        requests(&receiver, 50).await?;
        fanfare.services.fanout.process().freeze();
        let mut waiting = Vec::new();
        for total in 50..80 {
            waiting.push(tenant.client.publish(&order("order.paid", total)).await?);
        }
        let mut redis = fanfare.redis_connection().await?;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
        fanfare.services.fanout.process().thaw();
        tokio::time::sleep(Duration::from_secs(2)).await;
        // The events are still where they were: nobody took them for wanted by nobody.
        let held = fanfare_held(&fanfare).await?;
        assert_eq!(held, 30, "events that an emptied Redis can't match stay in their queue");
        let refused = tenant.client.offer(&order("order.paid", 99)).await?;
        assert_eq!(refused.status, 503);
        Ok(())
    });
}

/// How many events wait, in any of the queues of events, counting what messages hold.
async fn fanfare_held(fanfare: &Fanfare) -> anyhow::Result<u64> {
    let connection = lapin::Connection::connect(&fanfare.amqp_url, lapin::ConnectionProperties::default()).await?;
    fanfare.services.fanout.kill(); // what it holds unacked goes back to its queues
    let channel = connection.create_channel().await?;
    let mut held = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while held < 30 && std::time::Instant::now() < deadline {
        for queue in 0..8 {
            let name = format!("fanfare.events.{queue}");
            while let Some(message) =
                channel.basic_get(name.as_str().into(), lapin::options::BasicGetOptions::default()).await?
            {
                let batch: serde_json::Value = serde_json::from_slice(&message.data)?;
                held += batch["events"].as_array().map_or(0, |events| events.len() as u64);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(held)
}
