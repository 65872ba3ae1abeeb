//! The ways back of docs/backup.md: Redis put back from a copy that is older than what the broker holds, and a broker that is
//! lost with all it held.

use std::time::Duration;

use anyhow::{Context, ensure};
use fanfare_local::{Receiver, Service, Settings};
use serde_json::json;

use crate::{
    fanfare::{Fanfare, PATIENCE, broker, order, story},
    stored_forms::{store, stored},
};

#[test]
fn what_is_on_its_way_arrives_after_redis_is_restored_from_an_older_copy() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(503).await?;
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["2s", "2s", "2s", "2s"] })).await?;
        let ends_later = tenant.client.publish(&order("order.paid", 1)).await?;
        tenant.delivery_that_is(&ends_later, "pending").await?;

        // The copy; after it that delivery ends, a webhook is made, and two events are under way, one of them not matched.
        let copy = stored(&fanfare.redis).await?;
        receiver.answer(200);
        tenant.delivery_that_is(&ends_later, "delivered").await?;
        let newer = Receiver::start().await?;
        tenant.webhook(&newer, "order.paid").await?;
        fanfare.services.dispatcher.stop(PATIENCE).await?; // what is delivered is acked
        let matched = tenant.client.publish(&order("order.paid", 2)).await?;
        tenant.delivery_that_is(&matched, "pending").await?;
        fanfare.services.fanout.kill();
        let accepted = tenant.client.publish(&order("order.paid", 3)).await?;
        for service in Service::ALL {
            fanfare.services.get(service).kill();
        }
        let mut redis = fanfare.redis_connection().await?;
        redis::cmd("FLUSHALL").exec_async(&mut redis).await?;
        store(&fanfare.redis, &copy).await?;
        receiver.take();
        // What is under way was accepted by a newer configuration than the copy's, and waits so long for that.
        let settings: Settings = [("FANFARE_REDIS__GONE_AFTER".to_owned(), "3s".to_owned())].into();
        for service in Service::ALL {
            fanfare.services.get_mut(service).start_again_with(&settings).await?;
        }

        for event in [&matched, &accepted] {
            tenant.delivery_that_is(event, "delivered").await.context("on its way")?;
        }
        // Its message was acked after the copy: nothing drives it, until somebody asks.
        let stuck = tenant.delivery_that_is(&ends_later, "pending").await?;
        let id = stuck["id"].as_str().context("an id")?;
        tenant.client.post(&format!("/v1/deliveries/{id}/retry"), &json!({})).await?;
        tenant.delivery_that_is(&ends_later, "delivered").await?;
        ensure!(newer.count() == 0, "the copy does not know that webhook");
        fanfare.balance().await
    });
}

#[test]
fn what_a_lost_broker_had_is_sent_again_on_demand() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(503).await?;
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["1h"] })).await?;
        let waiting = tenant.client.publish(&order("order.paid", 1)).await?;
        receiver.wait_for(1, PATIENCE).await?;
        fanfare.services.fanout.kill();
        let unmatched = order("order.paid", 2);
        tenant.client.publish(&unmatched).await?;
        // That the broker has it is marked behind the answer.
        while tenant.client.offer(&unmatched).await?.status != 202 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for service in Service::ALL {
            fanfare.services.get(service).kill();
        }
        broker().await?.vhost(&fanfare.vhost).await?;
        receiver.answer(200);
        for service in Service::ALL {
            fanfare.services.get_mut(service).start_again_with(&Settings::new()).await?;
        }

        let pending = tenant.delivery_that_is(&waiting, "pending").await?;
        let id = pending["id"].as_str().context("an id")?;
        tenant.client.post(&format!("/v1/deliveries/{id}/retry"), &json!({})).await?;
        tenant.delivery_that_is(&waiting, "delivered").await?;
        let again = tenant.client.offer(&unmatched).await?.json();
        ensure!(again["duplicate"] == true, "taken for a new event: {again}");
        let new = tenant.client.publish(&unmatched.with("id", "another")).await?;
        tenant.delivery_that_is(&new, "delivered").await?;
        Ok(())
    });
}

#[test]
fn a_webhook_made_after_redis_lost_its_last_writes_gets_its_events_from_who_knows_newer_ones() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_REDIS__GONE_AFTER", "3s")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let mut redis = fanfare.redis_connection().await?;
        let lost = Receiver::start().await?;
        for _ in 0..3 {
            let webhook = tenant.webhook(&lost, "order.paid").await?;
            // As if Redis had lost it with its last seconds.
            redis::cmd("HDEL").arg("f:{acme}:w").arg(&webhook.id).exec_async(&mut redis).await?;
            redis::cmd("HDEL").arg("f:{acme}:wc").arg(&webhook.id).exec_async(&mut redis).await?;
        }
        redis::cmd("DECRBY").arg("f:{acme}:cv").arg(3).exec_async(&mut redis).await?;
        // The api knows nothing of them any more, fanout does.
        let api = fanfare.services.get_mut(Service::Api);
        api.kill();
        api.start_again().await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        receiver.wait_for(1, PATIENCE).await?;
        tenant.delivery_that_is(&event, "delivered").await?;
        ensure!(lost.count() == 0, "what Redis has lost is no webhook");
        fanfare.balance().await
    });
}
