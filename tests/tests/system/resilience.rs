//! What goes wrong with one tenant, with what is stored, or with a server, stays there: others go on, and once it is mended
//! nothing is missing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fanfare_local::{Instance, Receiver, Service, Settings};
use serde_json::json;

use crate::fanfare::{Fanfare, PATIENCE, Tenant, order, requests, story};

/// The number of a tenant's queue of events (fanfare-bus, topology: FNV-1a).
fn queue_of(tenant: &str) -> u64 {
    tenant.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        % 8
}

/// Another tenant's id whose events lie in the same queue.
fn neighbour_of(tenant: &str) -> String {
    let same = |id: &String| queue_of(id) == queue_of(tenant);
    (0..).map(|number| format!("other-{number}")).find(same).expect("eight queues, endless names")
}

/// Waits until a metric of an instance is at least so much.
async fn metric_reaches(instance: &Instance, name: &str, least: f64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while instance.metric(name).await? < least {
        ensure!(Instant::now() < deadline, "`{name}` never came to {least}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> Settings {
    Settings::from([(name.to_owned(), value.to_owned())])
}

async fn publish_each(tenant: &Tenant, count: u32) -> Result<()> {
    for total in 0..count {
        tenant.client.publish(&order("order.paid", total)).await?;
    }
    Ok(())
}

#[test]
fn a_tenant_that_redis_has_lost_holds_up_nobody_elses_events_and_gets_its_own_once_it_is_back() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (acme, other) = (fanfare.tenant("acme").await?, fanfare.tenant(&neighbour_of("acme")).await?);
        let (to_acme, to_other) = (Receiver::start().await?, Receiver::start().await?);
        acme.webhook(&to_acme, "order.paid").await?;
        other.webhook(&to_other, "order.paid").await?;
        fanfare.services.fanout.process().freeze();
        publish_each(&acme, 60).await?; // more messages than fanout takes at a time
        let mut redis = fanfare.redis_connection().await?;
        let version: String = redis::cmd("GETDEL").arg("f:{acme}:cv").query_async(&mut redis).await?;
        // Stopped dead between putting off and acking: a copy more, and none less.
        fanfare.services.fanout.start_again_with(&set("FANFARE_FAIL_POINT", "fanout.put_off")).await?;
        fanfare.services.fanout.process().wait(PATIENCE).await?;
        fanfare.services.fanout.start_again_with(&set("FANFARE_FAIL_POINT", "")).await?;
        publish_each(&other, 5).await?;
        requests(&to_other, 5).await?;
        metric_reaches(&fanfare.services.fanout, "fanfare_events_put_off_total", 60.0).await?;
        assert_eq!(to_acme.count(), 0);
        redis::cmd("SET").arg("f:{acme}:cv").arg(version).query_async::<()>(&mut redis).await?;
        requests(&to_acme, 60).await?;
        fanfare.balance().await?;
        assert_eq!((to_acme.count(), to_other.count()), (60, 5));
        Ok(())
    });
}

const SHOP: &str = "format: 1\nname: shop\ndescription: A shop.\nanyEventType: true\nrequest: { body: { full: . } }\n";

#[test]
fn events_of_a_catalog_that_fanout_lacks_wait_and_hold_up_nobody_elses() {
    story(async {
        let (with, without) = (fanfare_local::Sandbox::new()?, fanfare_local::Sandbox::new()?);
        std::fs::write(with.logs().join("shop.yaml"), SHOP)?;
        let path = |sandbox: &fanfare_local::Sandbox| sandbox.logs().display().to_string();
        let mut fanfare = Fanfare::start_with(&[("FANFARE_CATALOGS__PATH", &path(&with))]).await?;
        let (acme, other) = (fanfare.tenant_of("acme", "shop").await?, fanfare.tenant(&neighbour_of("acme")).await?);
        let (to_acme, to_other) = (Receiver::start().await?, Receiver::start().await?);
        acme.webhook(&to_acme, "order.paid").await?;
        other.webhook(&to_other, "order.paid").await?;
        fanfare.services.fanout.start_again_with(&set("FANFARE_CATALOGS__PATH", &path(&without))).await?;
        publish_each(&acme, 60).await?;
        publish_each(&other, 5).await?;
        requests(&to_other, 5).await?;
        metric_reaches(&fanfare.services.fanout, "fanfare_events_put_off_total", 60.0).await?;
        fanfare.services.fanout.start_again_with(&set("FANFARE_CATALOGS__PATH", &path(&with))).await?;
        requests(&to_acme, 60).await?;
        fanfare.balance().await?;
        assert_eq!((to_acme.count(), to_other.count()), (60, 5));
        Ok(())
    });
}

#[test]
fn deliveries_that_redis_lets_nobody_decide_on_hold_up_nobody_elses() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_DISPATCHER__MAX_IN_FLIGHT", "4")]).await?;
        let (acme, garbled, other) =
            (fanfare.tenant("acme").await?, fanfare.tenant("garbled").await?, fanfare.tenant("other").await?);
        let (to_acme, to_garbled, to_other) =
            (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        acme.webhook(&to_acme, "order.paid").await?;
        other.webhook(&to_other, "order.paid").await?;
        // Large and for several: such an event is read from Redis.
        for _ in 0..4 {
            garbled.webhook(&to_garbled, "order.paid").await?;
        }
        fanfare.services.dispatcher.process().freeze();
        publish_each(&acme, 20).await?;
        let large = fanfare_local::Event::new("order.paid", json!({ "text": "x".repeat(60_000) }));
        let event = garbled.client.publish(&large).await?;
        metric_reaches(&fanfare.services.fanout, "fanfare_deliveries_created_total", 24.0).await?;
        let mut redis = fanfare.redis_connection().await?;
        let version: String = redis::cmd("GETDEL").arg("f:{acme}:cv").query_async(&mut redis).await?;
        let key = format!("f:{{garbled}}:e:{event}");
        let body: Vec<u8> = redis::cmd("HGET").arg(&key).arg("b").query_async(&mut redis).await?;
        redis::cmd("HSET").arg(&key).arg("b").arg("9?").query_async::<()>(&mut redis).await?;
        fanfare.services.dispatcher.process().thaw();
        publish_each(&other, 5).await?;
        requests(&to_other, 5).await?;
        assert_eq!((to_acme.count(), to_garbled.count()), (0, 0));
        redis::cmd("SET").arg("f:{acme}:cv").arg(version).query_async::<()>(&mut redis).await?;
        redis::cmd("HSET").arg(&key).arg("b").arg(body).query_async::<()>(&mut redis).await?;
        requests(&to_acme, 20).await?;
        requests(&to_garbled, 4).await?;
        fanfare.balance().await?;
        assert_eq!((to_acme.count(), to_garbled.count(), to_other.count()), (20, 4, 5));
        Ok(())
    });
}

#[test]
fn what_cannot_be_read_of_one_tenant_stops_no_start_and_no_other_tenant() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (acme, broken, odd) =
            (fanfare.tenant("acme").await?, fanfare.tenant("broken").await?, fanfare.tenant("odd").await?);
        let other = fanfare.tenant("other").await?;
        let (to_acme, to_broken, to_other) =
            (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        acme.webhook(&to_acme, "order.paid").await?;
        let webhook = acme.webhook(&to_acme, "order.paid").await?.id;
        broken.webhook(&to_broken, "order.paid").await?;
        odd.webhook(&to_broken, "order.paid").await?;
        other.webhook(&to_other, "order.paid").await?;
        let mut redis = fanfare.redis_connection().await?;
        let good: String = redis::cmd("HGET").arg("f:{acme}:w").arg(&webhook).query_async(&mut redis).await?;
        let tenant: String = redis::cmd("GET").arg("f:{broken}:t").query_async(&mut redis).await?;
        let mut garble = redis::pipe();
        garble.cmd("HSET").arg("f:{acme}:w").arg(&webhook).arg(r#"{"v":9,"webhook":"t0p-s3cret"}"#);
        garble.cmd("SET").arg("f:{broken}:t").arg("t0p-s3cret").cmd("RENAME").arg("f:{odd}:w").arg("f:{odd}:kept");
        garble.cmd("SET").arg("f:{odd}:w").arg("no hash").query_async::<()>(&mut redis).await?;
        for service in Service::ALL {
            fanfare.services.get_mut(service).start_again().await?;
        }
        other.client.publish(&order("order.paid", 1)).await?;
        requests(&to_other, 1).await?;
        acme.client.publish(&order("order.paid", 1)).await?;
        for tenant in [&broken, &odd] {
            let refused = tenant.client.offer(&order("order.paid", 1)).await?;
            assert_eq!(refused.status, 503, "not as if there were no such tenant: {refused:?}");
        }
        metric_reaches(&fanfare.services.fanout, "fanfare_events_put_off_total", 1.0).await?;
        assert_eq!((to_acme.count(), to_broken.count()), (0, 0));
        for service in Service::ALL {
            let instance = fanfare.services.get(service);
            metric_reaches(instance, "fanfare_configuration_unreadable", 3.0).await?;
            let log = instance.process().log_tail(1_000);
            let named = |part: &str| assert!(log.contains(part), "{part} in {}'s log", service.name());
            [webhook.as_str(), "f:{acme}:w", "f:{broken}:t", "f:{odd}"].into_iter().for_each(named);
            assert!(!log.contains("s3cret"), "never what is stored");
        }
        // Mended by hand, which tells nobody.
        let mut mend = redis::pipe();
        mend.cmd("HSET").arg("f:{acme}:w").arg(&webhook).arg(good).cmd("SET").arg("f:{broken}:t").arg(tenant);
        mend.cmd("RENAME").arg("f:{odd}:kept").arg("f:{odd}:w").query_async::<()>(&mut redis).await?;
        requests(&to_acme, 2).await?;
        for tenant in [&broken, &odd] {
            let deadline = Instant::now() + PATIENCE;
            while tenant.client.offer(&order("order.paid", 2)).await?.status != 202 {
                ensure!(Instant::now() < deadline, "a mended tenant's events are accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        requests(&to_broken, 2).await?;
        fanfare.balance().await
    });
}

/// How often Redis has been asked for this so far.
async fn calls_of(redis: &mut redis::aio::MultiplexedConnection, command: &str) -> Result<u64> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await?;
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    Ok(line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0))
}

#[test]
fn wrong_keys_cost_next_to_nothing_and_a_key_made_among_them_opens_at_once() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let acme = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        acme.webhook(&receiver, "order.paid").await?;
        let mut redis = fanfare.redis_connection().await?;
        let before = (calls_of(&mut redis, "hgetall").await?, calls_of(&mut redis, "xrevrange").await?);
        for round in 0..10 {
            let wrong = (0..50).map(|number| {
                let tenant = if number % 2 == 0 { "acme".to_owned() } else { format!("nobody-{number}") };
                let client = acme.client.with_token(&format!("ffk_{tenant}_{round}_{number}"));
                async move { client.offer(&order("order.paid", number)).await }
            });
            let (answers, made) =
                tokio::join!(futures::future::join_all(wrong), fanfare.operator.create_key("acme", None));
            for answer in answers {
                assert_eq!(answer?.status, 401);
            }
            acme.client.with_token(&made?).publish(&order("order.paid", round)).await?;
        }
        let after = (calls_of(&mut redis, "hgetall").await?, calls_of(&mut redis, "xrevrange").await?);
        // Each of the ten keys has all five services read webhooks and keys; 500 wrong ones add a question now and then.
        assert!(after.0 - before.0 <= 2 * (2 * 5 * 10), "{before:?} {after:?}");
        assert!(after.1 - before.1 <= 100, "{before:?} {after:?}");
        requests(&receiver, 10).await?;
        fanfare.balance().await
    });
}
