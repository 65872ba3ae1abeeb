//! What a delivery costs, counted from outside: broker messages at the broker, calls at Redis.

use std::time::Duration;

use anyhow::Result;
use fanfare_local::{Receiver, Service};
use futures::{StreamExt, stream};

use crate::fanfare::{Fanfare, broker, order, requests, story};

/// Messages that entered queues of this story's vhost, and calls that services made to Redis.
async fn counted(fanfare: &Fanfare) -> Result<(u64, u64)> {
    // Statistics are collected every few seconds: wait until they no longer move.
    let mut before = None;
    let messages = loop {
        let stats = broker().await?.message_stats(&fanfare.vhost).await?;
        let now = stats["publish"].as_u64().unwrap_or(0);
        if before == Some(now) {
            break now;
        }
        before = Some(now);
        tokio::time::sleep(Duration::from_secs(6)).await;
    };
    let mut redis = fanfare.redis_connection().await?;
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await?;
    let calls = |name: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
        line.and_then(|line| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    // Scripts of services are EVALSHA; EVAL is a dispatcher's sign of life, once a second. Less what one scheduler reads every few
    // seconds for its gauges, however much is delivered.
    let read =
        fanfare.services.get(Service::Scheduler).metric("fanfare_redis_call_duration_seconds_count{script=\"other\"}");
    let read = read.await? as u64;
    Ok((messages, calls("evalsha") + calls("hgetall") - read))
}

#[test]
fn a_lone_event_costs_two_messages_and_five_calls_and_under_load_a_fraction() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook_with(&receiver, "order.paid", &serde_json::json!({ "maxInFlight": 256 })).await?;
        tenant.client.publish(&order("order.paid", 0)).await?; // scripts and connections are there after it
        requests(&receiver, 1).await?;

        let (messages, calls) = counted(&fanfare).await?;
        for total in 1..=10 {
            tenant.client.publish(&order("order.paid", total)).await?;
            requests(&receiver, 1 + total as usize).await?;
        }
        let (messages_lone, calls_lone) = counted(&fanfare).await?;
        assert!(messages_lone - messages <= 2 * 10, "{} messages for 10 lone events", messages_lone - messages);
        assert!(calls_lone - calls <= 5 * 10, "{} calls for 10 lone events", calls_lone - calls);

        let client = &tenant.client;
        let published =
            stream::iter(0..4_000_u32).map(|total| async move { client.publish(&order("order.paid", total)).await });
        published.buffer_unordered(128).collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>>>()?;
        requests(&receiver, 11 + 4_000).await?;
        let (messages_load, calls_load) = counted(&fanfare).await?;
        let (messages, calls) =
            ((messages_load - messages_lone) as f64 / 4_000.0, (calls_load - calls_lone) as f64 / 4_000.0);
        assert!(messages <= 0.5, "{messages} messages per delivery under load");
        assert!(calls <= 1.0, "{calls} calls per delivery under load");
        fanfare.balance().await
    });
}
