//! What goes wrong with one tenant, with what is stored, or with a server, stays there: others go on, and once it is mended
//! nothing is missing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fanfare_local::{Instance, Publisher, Receiver, Service, Settings};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let unwanted = acme.webhook(&to_acme, "order.paid").await?.id;
        broken.webhook(&to_broken, "order.paid").await?;
        odd.webhook(&to_broken, "order.paid").await?;
        other.webhook(&to_other, "order.paid").await?;
        let mut redis = fanfare.redis_connection().await?;
        let good: String = redis::cmd("HGET").arg("f:{acme}:w").arg(&webhook).query_async(&mut redis).await?;
        let tenant: String = redis::cmd("GET").arg("f:{broken}:t").query_async(&mut redis).await?;
        let mut garble = redis::pipe();
        garble.cmd("HSET").arg("f:{acme}:w").arg(&webhook).arg(r#"{"v":9,"webhook":"t0p-s3cret"}"#);
        garble.cmd("HSET").arg("f:{acme}:w").arg(&unwanted).arg("no webhook");
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
        // Deleted as it is.
        let path = format!("/v1/webhooks/{unwanted}");
        assert_eq!(acme.client.ask("GET", &path, None).await?.status, 503);
        acme.client.delete(&path).await?;
        assert_eq!(acme.client.ask("GET", &path, None).await?.status, 404);
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

#[test]
fn a_deleted_tenants_id_passes_on_and_nothing_that_was_its_own() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let before = fanfare.tenant("acme").await?;
        let (to_before, to_after) = (Receiver::start().await?, Receiver::start().await?);
        let failing = Receiver::answering(503).await?;
        let held = before.webhook(&to_before, "order.held").await?.id;
        before.client.patch(&format!("/v1/webhooks/{held}"), &json!({ "active": false })).await?;
        before.webhook(&to_before, "order.paid").await?;
        before.webhook_with(&failing, "order.due", &json!({ "retrySchedule": ["3s", "3s", "3s"] })).await?;
        let again = order("order.paid", 1);
        let delivered = before.client.publish(&again).await?;
        let delivery = before.delivery_that_is(&delivered, "delivered").await?;
        let kept = before.client.publish(&order("order.held", 1)).await?;
        before.delivery_that_is(&kept, "held").await?;
        before.client.publish(&order("order.due", 1)).await?;
        requests(&failing, 1).await?;
        // Accepted, and not fanned out before there is another tenant of this id.
        fanfare.services.fanout.kill();
        let late = before.client.publish(&order("order.paid", 2)).await?;
        to_before.take();

        let twin = fanfare.operator.ask("POST", "/v1/tenants", Some(&json!({ "id": "acme" }))).await?;
        assert_eq!(twin.status, 409, "{twin:?}");
        fanfare.operator.delete("/v1/tenants/acme").await?;
        let after = fanfare.tenant("acme").await?;
        assert_eq!(before.client.ask("GET", "/v1/deliveries", None).await?.status, 401);
        after.webhook(&to_after, "order.paid").await?;
        fanfare.services.fanout.start_again().await?;
        // The same event is not one that was accepted before.
        let event = after.client.publish(&again).await?;
        assert_ne!(event, delivered);
        after.delivery_that_is(&event, "delivered").await?;
        for path in [
            format!("/v1/events/{delivered}"),
            format!("/v1/events/{delivered}/explain"),
            format!("/v1/events/{late}"),
            format!("/v1/deliveries/{}", delivery["id"].as_str().unwrap_or_default()),
        ] {
            assert_eq!(after.client.ask("GET", &path, None).await?.status, 404, "{path}");
        }
        let ledger = |ledger: std::collections::BTreeMap<String, i64>, state: &str| ledger.get(state).copied();
        let deadline = Instant::now() + PATIENCE;
        while ledger(fanfare.ledger("acme").await?, "cancelled") != Some(2) {
            ensure!(Instant::now() < deadline, "what was held and what was to be retried is cancelled");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Restarted, it is the one there is.
        fanfare.services.api.start_again().await?;
        assert_eq!(after.client.deliveries("").await?.len(), 1);
        let events = after.client.get("/v1/events").await?;
        assert_eq!(events["events"].as_array().map(Vec::len), Some(1), "{events}");
        assert_eq!((to_before.count(), to_after.count()), (0, 1));
        fanfare.balance().await
    });
}

#[test]
fn a_final_failure_of_a_tenant_that_redis_has_lost_holds_up_nobody_elses_and_disables_once_it_is_back() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (acme, other) = (fanfare.tenant("acme").await?, fanfare.tenant("other").await?);
        let (to_acme, to_other) = (Receiver::answering(410).await?, Receiver::answering(503).await?);
        let webhook = acme.webhook(&to_acme, "order.paid").await?.id;
        other.webhook_with(&to_other, "order.paid", &json!({ "retrySchedule": ["1s", "1s"] })).await?;
        fanfare.services.scheduler.process().freeze();
        let event = acme.client.publish(&order("order.paid", 1)).await?;
        acme.delivery_that_is(&event, "failed").await?;
        let mut redis = fanfare.redis_connection().await?;
        let version: String = redis::cmd("GETDEL").arg("f:{acme}:cv").query_async(&mut redis).await?;
        fanfare.services.scheduler.process().thaw();
        let deadline = Instant::now() + PATIENCE;
        while !fanfare.services.scheduler.process().log_tail(1_000).contains("cannot be disabled") {
            ensure!(Instant::now() < deadline, "a webhook that cannot be disabled is named");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        other.client.publish(&order("order.paid", 1)).await?;
        requests(&to_other, 3).await?;
        redis::cmd("SET").arg("f:{acme}:cv").arg(version).query_async::<()>(&mut redis).await?;
        while acme.client.webhook(&webhook).await?.fields["disabled"]["reason"] != "gone" {
            ensure!(Instant::now() < deadline, "disabled once it can be");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        fanfare.balance().await
    });
}

/// Begins a publish on a connection of its own: so much is announced, and sent in pieces, one a second.
async fn slow_publish(tenant: &Tenant, ingest: &str, piece_bytes: usize, pieces: usize) -> Result<String> {
    let mut connection = tokio::net::TcpStream::connect(ingest.trim_start_matches("http://")).await?;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 262144\r\n\r\n",
        tenant.client.token()
    );
    connection.write_all(head.as_bytes()).await?;
    for _ in 0..pieces {
        if connection.write_all(&vec![b' '; piece_bytes]).await.is_err() {
            break; // answered already
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut answer = vec![0; 64];
    let read = connection.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

#[test]
fn slow_bodies_leave_room_for_others_and_get_a_408() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let acme = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        acme.webhook(&receiver, "order.paid").await?;
        let ingest = fanfare.services.ingest.url()?;
        // Together they announce more than ingest holds at once, and come so slowly that they take as long as they may.
        let answered = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let slow: Vec<_> = (0..300)
            .map(|_| {
                let (acme, ingest, answered) = (acme.clone(), ingest.clone(), answered.clone());
                tokio::spawn(async move {
                    let answer = slow_publish(&acme, &ingest, 4_096, 45).await;
                    answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    answer
                })
            })
            .collect();
        metric_reaches(&fanfare.services.ingest, "fanfare_ingest_bodies_bytes", 300.0 * 4_096.0).await?;
        acme.client.publish(&order("order.paid", 1)).await?;
        assert_eq!(answered.load(std::sync::atomic::Ordering::SeqCst), 0, "no slow one had to end for it");
        let stalled = slow_publish(&acme, &ingest, 10, 1).await?;
        assert!(stalled.starts_with("HTTP/1.1 408"), "{stalled}");
        for slow in slow {
            let answer = slow.await??;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
        assert!(
            fanfare
                .services
                .ingest
                .metrics()
                .await?
                .contains(r#"fanfare_events_rejected_total{reason="too_slow"} 301"#)
        );
        requests(&receiver, 1).await?;
        fanfare.balance().await
    });
}

/// Bounds the queue of rejected messages lower than its own bound.
async fn limit_rejected(fanfare: &Fanfare, bytes: u32) -> Result<()> {
    let definition = json!({ "max-length-bytes": bytes }).to_string();
    let policy =
        ["set_policy", "--vhost", &fanfare.vhost, "--apply-to", "queues", "small", "^fanfare.rejected$", &definition];
    crate::fanfare::broker().await?.ctl(&policy).await.map(drop)
}

#[test]
fn a_full_queue_of_rejected_messages_holds_up_no_event() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let acme = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        acme.webhook(&receiver, "order.paid").await?;
        limit_rejected(&fanfare, 1_000).await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        // More than ingest takes at a time.
        for _ in 0..1_200 {
            let structured = lapin::BasicProperties::default().with_content_type("application/cloudevents+json".into());
            publisher.send("acme.order.paid", b"{ no json", structured).await?;
        }
        publisher.publish("acme", &order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        metric_reaches(&fanfare.services.ingest, "fanfare_rejects_dropped_total", 1_000.0).await?;
        assert!(fanfare.services.ingest.metric("fanfare_rejects_waiting").await? <= 64.0);
        let log = fanfare.services.ingest.process().log_tail(1_000);
        assert!(log.contains("the queue of rejected messages is full"), "{log}");
        // Room again, and those that waited are kept.
        limit_rejected(&fanfare, 1_000_000).await?;
        let deadline = Instant::now() + PATIENCE;
        while fanfare.services.ingest.metric("fanfare_rejects_waiting").await? > 0.0 {
            ensure!(Instant::now() < deadline, "what waited for room is kept once there is some");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        fanfare.balance().await
    });
}

#[test]
fn a_changed_catalog_changes_no_body_of_a_delivery_already_made() {
    story(async {
        let folder = fanfare_local::Sandbox::new()?;
        let file = folder.logs().join("shop.yaml");
        std::fs::write(&file, SHOP.replace("full: .", "full: '{before: .id}'"))?;
        let mut fanfare =
            Fanfare::start_with(&[("FANFARE_CATALOGS__PATH", &folder.logs().display().to_string())]).await?;
        let acme = fanfare.tenant_of("acme", "shop").await?;
        let receiver = Receiver::answering(503).await?;
        acme.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["3s", "3s", "3s", "3s", "3s"] })).await?;
        let old = order("order.paid", 1);
        let old_event = acme.client.publish(&old).await?;
        assert_eq!(requests(&receiver, 1).await?[0].json(), json!({ "before": old.id() }));
        std::fs::write(&file, SHOP.replace("full: .", "full: '{after: .id}'"))?;
        fanfare.services.dispatcher.kill();
        receiver.answer(200);
        receiver.take();
        // Neither under today's text nor lost where the old one is gone: it waits until that is back.
        let mut redis = fanfare.redis_connection().await?;
        redis::cmd("RENAME").arg("f:catalogs").arg("kept").query_async::<()>(&mut redis).await?;
        for service in Service::ALL {
            fanfare.services.get_mut(service).start_again().await?;
        }
        let new = order("order.paid", 2);
        acme.client.publish(&new).await?;
        assert_eq!(requests(&receiver, 1).await?[0].json(), json!({ "after": new.id() }));
        let deadline = Instant::now() + PATIENCE;
        while !fanfare.services.dispatcher.process().log_tail(1_000).contains("put its file back") {
            ensure!(Instant::now() < deadline, "a delivery whose catalog is gone says so");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        redis::cmd("RENAME").arg("kept").arg("f:catalogs").query_async::<()>(&mut redis).await?;
        let bodies: Vec<_> = requests(&receiver, 2).await?.iter().map(|request| request.json()).collect();
        assert_eq!(bodies[1], json!({ "before": old.id() }), "{bodies:?}");
        // And it is shown as it was sent.
        let shown = acme.delivery_that_is(&old_event, "delivered").await?;
        let body = shown["attempts"][0]["request"]["body"].as_str().unwrap_or_default().to_owned();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body)?, json!({ "before": old.id() }));
        fanfare.balance().await
    });
}

#[test]
fn failures_that_a_blocked_broker_does_not_take_hold_up_no_success() {
    story(async {
        let sandbox = fanfare_local::Sandbox::new()?;
        let redis = fanfare_local::Redis::start(&sandbox).await?;
        let broker = fanfare_local::Broker::start(&sandbox).await?;
        let mut fanfare =
            Fanfare::start_over(sandbox, redis, &broker, &[("FANFARE_DISPATCHER__MAX_IN_FLIGHT", "4")]).await?;
        let acme = fanfare.tenant("acme").await?;
        let (failing, good) = (Receiver::start().await?, Receiver::start().await?);
        failing
            .answer_by(|request| if request.header("fanfare-attempt") == Some("1") { 503.into() } else { 200.into() });
        acme.webhook_with(&failing, "order.lost", &json!({ "retrySchedule": ["100ms"] })).await?;
        acme.webhook(&good, "order.paid").await?;
        fanfare.services.dispatcher.process().freeze();
        for total in 0..12 {
            acme.client.publish(&order("order.lost", total)).await?; // more than the dispatcher takes at a time
        }
        publish_each(&acme, 5).await?;
        metric_reaches(&fanfare.services.fanout, "fanfare_deliveries_created_total", 17.0).await?;
        fanfare.services.fanout.stop(PATIENCE).await?; // all are published
        broker.set_memory_watermark(0.000_01).await?;
        fanfare.services.dispatcher.process().thaw();
        requests(&good, 5).await?;
        assert_eq!(failing.count(), 12, "no retry came through");
        broker.set_memory_watermark(0.4).await?;
        requests(&failing, 24).await?;
        metric_reaches(&fanfare.services.dispatcher, "fanfare_deliveries_total", 17.0).await?;
        assert_eq!((failing.count(), good.count()), (24, 5));
        let deadline = Instant::now() + PATIENCE;
        while fanfare.ledger("acme").await?.get("delivered") != Some(&17) {
            ensure!(Instant::now() < deadline, "{:?}", fanfare.ledger("acme").await?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
}

#[test]
fn messages_of_a_catalog_that_ingest_lacks_wait_and_hold_up_nobody_elses() {
    story(async {
        let (with, without) = (fanfare_local::Sandbox::new()?, fanfare_local::Sandbox::new()?);
        std::fs::write(with.logs().join("shop.yaml"), SHOP)?;
        let path = |sandbox: &fanfare_local::Sandbox| sandbox.logs().display().to_string();
        let mut fanfare = Fanfare::start_with(&[("FANFARE_CATALOGS__PATH", &path(&with))]).await?;
        let (acme, other) = (fanfare.tenant_of("acme", "shop").await?, fanfare.tenant("other").await?);
        let (to_acme, to_other) = (Receiver::start().await?, Receiver::start().await?);
        acme.webhook(&to_acme, "order.paid").await?;
        other.webhook(&to_other, "order.paid").await?;
        let mut changed = set("FANFARE_CATALOGS__PATH", &path(&without));
        changed.extend(set("FANFARE_FAIL_POINT", "ingest.put_off:500"));
        fanfare.services.ingest.start_again_with(&changed).await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        // More than ingest takes at a time; and their own headers route them nowhere else when they come back.
        let text = |text: &str| lapin::types::AMQPValue::LongString(text.into());
        for total in 0..1_100 {
            let mut headers = lapin::types::FieldTable::default();
            headers.insert("CC".into(), lapin::types::AMQPValue::FieldArray(vec![text("main"), text("due")].into()));
            headers.insert("x-fanfare-routing-key".into(), text("other.order.paid"));
            let structured = lapin::BasicProperties::default()
                .with_content_type("application/cloudevents+json".into())
                .with_headers(headers);
            publisher.send("acme.order.paid", order("order.paid", total).to_json().as_bytes(), structured).await?;
        }
        // Stopped dead between putting off and acking: a copy more, which is the same event again.
        fanfare.services.ingest.process().wait(PATIENCE).await?;
        fanfare.services.ingest.start_again_with(&set("FANFARE_FAIL_POINT", "")).await?;
        publisher.publish("other", &order("order.paid", 1)).await?;
        requests(&to_other, 1).await?;
        assert_eq!(to_acme.count(), 0);
        fanfare.services.ingest.start_again_with(&set("FANFARE_CATALOGS__PATH", &path(&with))).await?;
        requests(&to_acme, 1_100).await?;
        fanfare.balance().await?;
        assert_eq!((to_acme.count(), to_other.count()), (1_100, 1));
        Ok(())
    });
}
