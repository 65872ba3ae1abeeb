//! What a webhook that gets no deliveries holds: kept in Redis alone, and then delivered once each, oldest first, or
//! cancelled, or kept; whatever is stopped dead meanwhile.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use fanfare_local::{Answer, Receiver, Service, Webhook};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::fanfare::{Fanfare, PATIENCE, Tenant, broker, order, requests, story};

/// Publishes so many orders, one after the other, numbered from `first`.
async fn publish(tenant: &Tenant, first: u32, count: u32) -> Result<()> {
    for total in first..first + count {
        tenant.client.publish(&order("order.paid", total)).await?;
    }
    Ok(())
}

/// Waits until a tenant's ledger says so.
async fn until(fanfare: &Fanfare, tenant: &Tenant, state: &str, count: i64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ledger = fanfare.ledger(&tenant.id).await?;
        if ledger.get(state).copied().unwrap_or(0) == count {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not {count} {state}: {ledger:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A webhook that its tenant has switched off and that holds so many orders.
async fn holding(
    fanfare: &Fanfare,
    tenant: &Tenant,
    receiver: &Receiver,
    count: u32,
    fields: &Value,
) -> Result<Webhook> {
    let mut fields = fields.clone();
    fields["active"] = json!(false);
    let before = fanfare.ledger(&tenant.id).await?.get("held").copied().unwrap_or(0);
    let webhook = tenant.webhook_with(receiver, "order.paid", &fields).await?;
    publish(tenant, 0, count).await?;
    until(fanfare, tenant, "held", before + i64::from(count)).await?;
    Ok(webhook)
}

async fn patch(tenant: &Tenant, webhook: &Webhook, fields: &Value) -> Result<()> {
    tenant.client.patch(&format!("/v1/webhooks/{}", webhook.id), fields).await.map(drop)
}

async fn enable(tenant: &Tenant, webhook: &Webhook, held: &str) -> Result<()> {
    tenant.client.post(&format!("/v1/webhooks/{}/enable", webhook.id), &json!({ "held": held })).await.map(drop)
}

/// The numbers of the orders that came, in order of arrival.
fn totals(receiver: &Receiver) -> Vec<u64> {
    receiver.requests().iter().filter_map(|request| request.json()["data"]["total"].as_u64()).collect()
}

/// How often each delivery came.
fn times(receiver: &Receiver) -> BTreeMap<String, u32> {
    let mut times = BTreeMap::new();
    for request in receiver.requests() {
        *times.entry(request.header("webhook-id").unwrap_or_default().to_owned()).or_default() += 1;
    }
    times
}

/// How the newest job over what a webhook holds ended, waited for.
async fn job_end(fanfare: &Fanfare, tenant: &Tenant) -> Result<String> {
    let mut redis = fanfare.redis_connection().await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let jobs: Vec<String> =
            redis::cmd("KEYS").arg(format!("f:{{{}}}:job:*", tenant.id)).query_async(&mut redis).await?;
        for job in jobs.iter().filter(|job| !job.ends_with(":out")) {
            let why: Option<String> = redis::cmd("HGET").arg(job).arg("why").query_async(&mut redis).await?;
            if let Some(why) = why {
                return Ok(why);
            }
        }
        ensure!(Instant::now() < deadline, "no job of {jobs:?} ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_a_disabled_webhook_holds_is_delivered_once_each_oldest_first_beside_what_happens_now() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(410).await?;
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        let first = tenant.client.publish(&order("order.paid", 9_999)).await?;
        tenant.delivery_that_is(&first, "failed").await?;
        while tenant.client.webhook(&webhook.id).await?.fields["disabled"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        receiver.take();
        publish(&tenant, 0, 300).await?;
        until(&fanfare, &tenant, "held", 300).await?;

        // Listed, and nowhere in the broker.
        let (mut listed, mut cursor) = (0, String::new());
        loop {
            let page = tenant.client.get(&format!("/v1/deliveries?status=held&limit=100{cursor}")).await?;
            listed += page["deliveries"].as_array().map_or(0, Vec::len);
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(listed, 300);
        loop {
            let depths = broker().await?.depths(&fanfare.vhost).await?;
            let left: u64 = depths.iter().map(|queue| queue.ready + queue.unacked).sum();
            if left == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(receiver.count(), 0);

        receiver.answer(Answer::status(200).after(Duration::from_millis(30)));
        enable(&tenant, &webhook, "deliver").await?;
        // One after the other, so that of 16 slots the resume's half and one more are taken at most.
        for live in 0..20 {
            let event = tenant.client.publish(&order("order.paid", 1_000 + live)).await?;
            tenant.delivery_that_is(&event, "delivered").await?;
        }
        requests(&receiver, 320).await?;
        assert_eq!(job_end(&fanfare, &tenant).await?, "done");
        fanfare.balance().await?;
        assert!(times(&receiver).values().all(|count| *count == 1), "once each: {:?}", times(&receiver));
        assert!(
            receiver.requests().iter().all(|request| request.in_flight <= 9),
            "half of the slots, and the live one"
        );
        let arrived = totals(&receiver);
        let first_live = arrived.iter().position(|total| *total >= 1_000);
        assert!(first_live < Some(300), "what happens now does not wait for what was held: {arrived:?}");
        // Oldest first: none comes before what was released a whole window earlier.
        let held: Vec<u64> = arrived.into_iter().filter(|total| *total < 1_000).collect();
        for (at, total) in held.iter().enumerate() {
            assert!((at as u64).abs_diff(*total) <= 16, "{total} came as number {at}: {held:?}");
        }
        Ok(())
    });
}

#[test]
fn one_slot_makes_strict_order_however_long_it_takes() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        // Longer than a turn of the job, so that it passes itself on.
        let receiver = Receiver::answering(Answer::status(200).after(Duration::from_millis(450))).await?;
        let webhook = holding(&fanfare, &tenant, &receiver, 40, &json!({ "maxInFlight": 1 })).await?;
        patch(&tenant, &webhook, &json!({ "active": true })).await?;
        requests(&receiver, 40).await?;
        fanfare.balance().await?;
        assert_eq!(totals(&receiver), (0..40).collect::<Vec<u64>>());
        Ok(())
    });
}

#[test]
fn a_scheduler_killed_in_the_middle_of_a_resume_skips_and_doubles_nothing() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(Answer::status(200).after(Duration::from_millis(20))).await?;
        let webhook = holding(&fanfare, &tenant, &receiver, 200, &json!({})).await?;
        let mut second = Some(fanfare.another(Service::Scheduler).await?);
        patch(&tenant, &webhook, &json!({ "active": true })).await?;
        for came in [20, 60, 100] {
            requests(&receiver, came).await?;
            fanfare.services.scheduler.kill();
            drop(second.take()); // the first time both are gone, later the only one is
            fanfare.services.scheduler.start_again().await?;
        }
        requests(&receiver, 200).await?;
        assert_eq!(job_end(&fanfare, &tenant).await?, "done");
        fanfare.balance().await?;
        assert_eq!(times(&receiver).len(), 200);
        assert!(times(&receiver).values().all(|count| *count == 1), "once each: {:?}", times(&receiver));
        Ok(())
    });
}

#[test]
fn what_is_held_can_be_kept_and_delivered_later_or_cancelled() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (kept, cancelled) = (fanfare.tenant("kept").await?, fanfare.tenant("cancelled").await?);
        let receiver = Receiver::answering(410).await?;
        let mut webhooks = Vec::new();
        for tenant in [&kept, &cancelled] {
            let webhook = tenant.webhook(&receiver, "order.paid").await?;
            let event = tenant.client.publish(&order("order.paid", 9_999)).await?;
            tenant.delivery_that_is(&event, "failed").await?;
            while tenant.client.webhook(&webhook.id).await?.fields["disabled"].is_null() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            publish(tenant, 0, 20).await?;
            until(&fanfare, tenant, "held", 20).await?;
            webhooks.push(webhook);
        }
        receiver.answer(200);
        receiver.take();
        enable(&kept, &webhooks[0], "keep").await?;
        let live = kept.client.publish(&order("order.paid", 1_000)).await?;
        kept.delivery_that_is(&live, "delivered").await?;
        until(&fanfare, &kept, "held", 20).await?;
        enable(&kept, &webhooks[0], "deliver").await?;
        requests(&receiver, 21).await?;

        enable(&cancelled, &webhooks[1], "cancel").await?;
        until(&fanfare, &cancelled, "cancelled", 20).await?;
        assert_eq!(cancelled.client.deliveries("status=cancelled&limit=100").await?.len(), 20);
        assert_eq!(cancelled.client.deliveries("status=held").await?.len(), 0);
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 21);
        Ok(())
    });
}

#[test]
fn a_webhook_switched_off_in_the_middle_of_a_resume_keeps_the_rest() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(Answer::status(200).after(Duration::from_millis(30))).await?;
        let webhook = holding(&fanfare, &tenant, &receiver, 100, &json!({})).await?;
        patch(&tenant, &webhook, &json!({ "active": true })).await?;
        requests(&receiver, 10).await?;
        patch(&tenant, &webhook, &json!({ "active": false })).await?;
        assert_eq!(job_end(&fanfare, &tenant).await?, "webhook_off");
        until(&fanfare, &tenant, "pending", 0).await?;
        let came = receiver.count();
        assert!((10..100).contains(&came), "{came} came before it was off");
        until(&fanfare, &tenant, "held", 100 - i64::try_from(came)?).await?;
        patch(&tenant, &webhook, &json!({ "active": true })).await?;
        requests(&receiver, 100).await?;
        fanfare.balance().await?;
        assert!(times(&receiver).values().all(|count| *count == 1), "once each: {:?}", times(&receiver));
        Ok(())
    });
}

#[test]
fn what_a_deleted_webhook_or_tenant_holds_is_cancelled() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (acme, other) = (fanfare.tenant("acme").await?, fanfare.tenant("other").await?);
        let receiver = Receiver::start().await?;
        let webhook = holding(&fanfare, &acme, &receiver, 150, &json!({})).await?;
        for _ in 0..2 {
            other.webhook_with(&receiver, "order.paid", &json!({ "active": false })).await?;
        }
        publish(&other, 0, 20).await?;
        until(&fanfare, &other, "held", 40).await?;
        acme.client.delete(&format!("/v1/webhooks/{}", webhook.id)).await?;
        fanfare.operator.delete("/v1/tenants/other").await?;
        until(&fanfare, &acme, "cancelled", 150).await?;
        until(&fanfare, &other, "cancelled", 40).await?;
        let one = &acme.client.deliveries("status=cancelled&limit=1").await?[0];
        assert_eq!(one["reason"], "webhook_deleted");
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 0);
        Ok(())
    });
}

/// Every fail point of a job, and how its receiver answers first: a turn ends early where nothing happens for a while.
const PLACES: [(&str, Duration); 8] = [
    ("jobs.consumed", Duration::ZERO),
    ("jobs.leased", Duration::ZERO),
    ("jobs.released", Duration::ZERO),
    ("jobs.published", Duration::ZERO),
    ("jobs.noted", Duration::ZERO),
    ("jobs.left", Duration::from_secs(5)),
    ("jobs.ended", Duration::ZERO),
    ("jobs.passed", Duration::ZERO),
];

#[test]
fn a_resume_comes_to_its_end_whatever_stops_dead_wherever() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_DISPATCHER__TIMEOUT", "10s")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        for (place, first_answer) in PLACES {
            let receiver = Receiver::start().await?;
            let webhook = holding(&fanfare, &tenant, &receiver, 8, &json!({})).await?;
            receiver.answer_in_turn([Answer::status(200).after(first_answer), Answer::status(200)]);
            fanfare.start_to_stop_dead(Service::Scheduler, place).await?;
            patch(&tenant, &webhook, &json!({ "active": true })).await?;
            fanfare.services.get(Service::Scheduler).process().wait(PATIENCE).await?;
            fanfare.start_mended(Service::Scheduler).await?;
            requests(&receiver, 8).await?;
            until(&fanfare, &tenant, "pending", 0).await?;
            let times = times(&receiver);
            assert!(times.len() == 8 && times.values().all(|count| *count == 1), "after a stop at {place}: {times:?}");
            tenant.client.delete(&format!("/v1/webhooks/{}", webhook.id)).await?;
        }
        // A save whose job's message was never published, and a cancelling stopped half way.
        let receiver = Receiver::start().await?;
        let webhook = holding(&fanfare, &tenant, &receiver, 250, &json!({})).await?;
        fanfare.start_to_stop_dead(Service::Scheduler, "jobs.cancelled").await?;
        fanfare.start_to_stop_dead(Service::Api, "api.saved").await?;
        assert!(enable(&tenant, &webhook, "cancel").await.is_err(), "the api stopped dead");
        fanfare.services.get(Service::Scheduler).process().wait(PATIENCE).await?;
        fanfare.start_mended(Service::Api).await?;
        fanfare.start_mended(Service::Scheduler).await?;
        until(&fanfare, &tenant, "cancelled", 250).await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 0);
        Ok(())
    });
}

#[test]
fn a_webhook_that_many_hold_for_is_resumed_beside_others() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receivers: Vec<Receiver> = stream::iter(0..10)
            .then(|_| Receiver::start())
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_>>()?;
        let mut webhooks = Vec::new();
        for receiver in &receivers {
            webhooks.push(tenant.webhook_with(receiver, "order.paid", &json!({ "active": false })).await?);
        }
        publish(&tenant, 0, 10).await?;
        until(&fanfare, &tenant, "held", 100).await?;
        // One never answers: it keeps nobody.
        receivers[0].answer(Answer::hang());
        for webhook in &webhooks {
            patch(&tenant, webhook, &json!({ "active": true, "retrySchedule": ["1s"] })).await?;
        }
        for receiver in &receivers[1..] {
            requests(receiver, 10).await?;
        }
        receivers[0].answer(200);
        fanfare.balance().await
    });
}
