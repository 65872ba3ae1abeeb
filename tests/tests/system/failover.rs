//! Redis as more than one server: a primary that dies under load and is replaced by its replica, and a cluster.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use fanfare_local::{Event, PRIMARY, Receiver, Redis, Sandbox};
use serde_json::json;

use crate::fanfare::{Fanfare, PATIENCE, Tenant, broker, order, requests, story};

/// Publishes until it is accepted, as a publisher should that is told to come again.
async fn accepted(tenant: &Tenant, event: &Event) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = tenant.client.offer(event).await?;
        match answer.status {
            202 => return Ok(()),
            503 => {}
            _ => anyhow::bail!("{answer:?}"),
        }
        ensure!(Instant::now() < deadline, "never accepted: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn asked(server: &Redis, command: &redis::Cmd) -> Result<redis::Value> {
    let mut connection = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    Ok(command.query_async(&mut connection).await?)
}

/// Waits until a server says this of itself.
async fn says(server: &Redis, section: &str, part: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut connection = redis::Client::open(format!("redis://127.0.0.1:{}", server.port()))?
            .get_multiplexed_async_connection()
            .await?;
        let told: String = redis::cmd("INFO").arg(section).query_async(&mut connection).await?;
        if told.contains(part) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "`{part}` never in {told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_primary_of_redis_that_dies_under_load_costs_no_accepted_event_and_no_webhook() {
    story(async {
        let sandbox = Sandbox::new()?;
        let primary = Redis::start(&sandbox).await?;
        let replica = Redis::start_replica(&sandbox, &primary).await?;
        says(&replica, "replication", "master_link_status:up").await?;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Redis::start_sentinel(&sandbox, &primary).await?);
        }
        for sentinel in &sentinels {
            says(sentinel, "sentinel", "slaves=1,sentinels=3").await?;
        }
        let hosts: Vec<_> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        let url = format!("redis+sentinel://{}/{PRIMARY}", hosts.join(","));
        let mut fanfare =
            Fanfare::start_over(sandbox, primary, broker().await?, &[("FANFARE_REDIS__URL", &url)]).await?;
        let acme = fanfare.tenant("acme").await?;
        let (receiver, late) = (Receiver::start().await?, Receiver::start().await?);
        acme.webhook(&receiver, "order.paid").await?;
        let events: Vec<Event> = (0..400).map(|total| order("order.paid", total)).collect();
        let mut publishers = tokio::task::JoinSet::new();
        for part in events.chunks(50) {
            let (acme, part) = (acme.clone(), part.to_vec());
            publishers.spawn(async move {
                for event in &part {
                    accepted(&acme, event).await?;
                }
                anyhow::Ok(())
            });
        }
        receiver.wait_for(50, PATIENCE).await?;
        // Answered with a 201 a moment before: where there is a replica, it has that too.
        acme.webhook(&late, "order.sent").await?;
        fanfare.redis.kill();
        while let Some(published) = publishers.join_next().await {
            published??;
        }
        accepted(&acme, &order("order.sent", 1)).await?;
        requests(&late, 1).await?;
        // At least once: what Redis lost with its last moments may come twice.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got: BTreeSet<u64> =
                receiver.requests().iter().filter_map(|request| request.json()["data"]["total"].as_u64()).collect();
            if got.len() == events.len() {
                break;
            }
            ensure!(Instant::now() < deadline, "{} of {} accepted events arrived", got.len(), events.len());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        says(&replica, "replication", "role:master").await?;
        broker().await?.delete_vhost(&fanfare.vhost).await
    });
}

#[test]
fn a_configuration_write_is_answered_once_a_replica_has_it() {
    story(async {
        let sandbox = Sandbox::new()?;
        let primary = Redis::start(&sandbox).await?;
        let replica = Redis::start_replica(&sandbox, &primary).await?;
        says(&primary, "replication", "state=online").await?;
        let mut fanfare = Fanfare::start_over(sandbox, primary, broker().await?, &[]).await?;
        let acme = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        for _ in 0..20 {
            let webhook = acme.webhook(&receiver, "order.paid").await?;
            let there = asked(&replica, redis::cmd("HEXISTS").arg("f:{acme}:w").arg(&webhook.id)).await?;
            assert_eq!(there, redis::Value::Int(1));
        }
        let told = asked(&fanfare.redis, redis::cmd("INFO").arg("commandstats")).await?;
        let told: String = redis::from_redis_value(told)?;
        assert!(told.contains("cmdstat_wait:calls="), "{told}");
        fanfare.balance().await
    });
}

#[test]
fn a_cluster_of_redis_carries_the_main_path() {
    story(async {
        let sandbox = Sandbox::new()?;
        let nodes = Redis::start_cluster(&sandbox).await?;
        for node in &nodes {
            says(node, "cluster", "cluster_enabled:1").await?;
        }
        let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let url = format!("redis+cluster://{}", hosts.join(","));
        let [first, second, third] = nodes;
        let mut fanfare = Fanfare::start_over(sandbox, first, broker().await?, &[("FANFARE_REDIS__URL", &url)]).await?;
        let receiver = Receiver::start().await?;
        receiver
            .answer_by(|request| if request.header("fanfare-attempt") == Some("1") { 503.into() } else { 200.into() });
        let mut tenants = Vec::new();
        for number in 0..12 {
            let tenant = fanfare.tenant(&format!("tenant-{number}")).await?;
            tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["200ms"] })).await?;
            tenants.push(tenant);
        }
        // At once, so that calls of several tenants are gathered.
        let published = tenants.iter().flat_map(|tenant| {
            (0..10).map(move |total| async move {
                let event = tenant.client.publish(&order("order.paid", total)).await?;
                anyhow::Ok((tenant, event))
            })
        });
        for published in futures::future::join_all(published).await {
            let (tenant, event) = published?;
            let delivery = tenant.delivery_that_is(&event, "delivered").await?;
            assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(2), "{delivery}");
        }
        assert_eq!(receiver.count(), 240);
        for node in [&fanfare.redis, &second, &third] {
            let keys = asked(node, &redis::cmd("DBSIZE")).await?;
            assert_ne!(keys, redis::Value::Int(0), "every node has its share");
        }
        let webhooks = tenants[0].client.get("/v1/webhooks").await?;
        let id = webhooks["webhooks"][0]["id"].as_str().unwrap_or_default().to_owned();
        tenants[0].client.patch(&format!("/v1/webhooks/{id}"), &json!({ "active": false })).await?;
        let held = tenants[0].client.publish(&order("order.paid", 99)).await?;
        tenants[0].delivery_that_is(&held, "held").await?;
        // A node that forgets its scripts is told again.
        asked(&second, redis::cmd("SCRIPT").arg("FLUSH")).await?;
        let published = tenants[1..].iter().flat_map(|tenant| {
            (100..110).map(move |total| async move {
                let event = tenant.client.publish(&order("order.paid", total)).await?;
                tenant.delivery_that_is(&event, "delivered").await
            })
        });
        futures::future::try_join_all(published).await?;
        broker().await?.delete_vhost(&fanfare.vhost).await
    });
}
