//! Each service stopped dead at each step between consuming and acking, then started again: every delivery comes to its
//! end, and a retry that was recorded is neither lost nor doubled.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use fanfare_local::{Answer, Receiver, Service};
use futures::{StreamExt, stream};
use serde_json::json;

use crate::fanfare::{Fanfare, PATIENCE, order, requests, story};

/// Every fail point, and whose it is (ARCHITECTURE.md, Fail points).
const PLACES: [(Service, &str); 14] = [
    (Service::Ingest, "ingest.claimed"),
    (Service::Ingest, "ingest.published"),
    (Service::Fanout, "fanout.consumed"),
    (Service::Fanout, "fanout.recorded"),
    (Service::Fanout, "fanout.published"),
    (Service::Dispatcher, "dispatcher.consumed"),
    (Service::Dispatcher, "dispatcher.claimed"),
    (Service::Dispatcher, "dispatcher.sent"),
    (Service::Dispatcher, "dispatcher.recorded"),
    (Service::Dispatcher, "dispatcher.published"),
    (Service::Scheduler, "scheduler.consumed"),
    (Service::Scheduler, "scheduler.published"),
    (Service::Scheduler, "scheduler.noted"),
    (Service::Scheduler, "scheduler.moved"),
];

#[test]
fn every_delivery_ends_whatever_stops_dead_wherever() {
    story(async {
        // A lease is the timeout and 5 s: short, as each stop between claim and record costs one.
        let mut fanfare = Fanfare::start_with(&[("FANFARE_DISPATCHER__TIMEOUT", "1s")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        // Each event's first attempt fails, its second succeeds: all queues are passed through.
        receiver
            .answer_by(|request| if request.header("fanfare-attempt") == Some("1") { 503.into() } else { 200.into() });
        tenant.webhook_with(&receiver, "order.paid", &json!({ "retrySchedule": ["250ms", "250ms", "250ms"] })).await?;
        for (number, (service, place)) in PLACES.into_iter().enumerate() {
            let number = u32::try_from(number)?;
            fanfare.start_to_stop_dead(service, place).await?;
            let events: Vec<_> = (0..5).map(|index| order("order.paid", number * 100 + index)).collect();
            let (mut published, mut again) = (Vec::new(), Vec::new());
            for event in &events {
                match tenant.client.offer(event).await {
                    Ok(answer) if answer.status == 202 => {
                        published.push(answer.json()["event"].as_str().unwrap_or_default().to_owned())
                    }
                    _ => again.push(event.clone()), // ingest stopped dead: the publisher publishes again
                }
            }
            fanfare.services.get(service).process().wait(PATIENCE).await?;
            fanfare.start_mended(service).await?;
            for event in again {
                loop {
                    let answer = tenant.client.offer(&event).await?;
                    if answer.status == 202 {
                        published.push(answer.json()["event"].as_str().unwrap_or_default().to_owned());
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            for event in &published {
                tenant.delivery_that_is(event, "delivered").await?;
            }
            let mut attempts: BTreeMap<(String, String), Vec<bool>> = BTreeMap::new();
            for request in receiver.take() {
                let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
                let marked = request.header("fanfare-redelivery") == Some("true");
                attempts.entry((header("webhook-id"), header("fanfare-attempt"))).or_default().push(marked);
            }
            for (attempt, marks) in &attempts {
                let repeated_unmarked = marks.iter().skip(1).any(|marked| !marked);
                assert!(
                    !repeated_unmarked,
                    "{attempt:?} came again without its mark after a stop at {place}: {marks:?}"
                );
                assert!(
                    marks.len() == 1 || service == Service::Dispatcher,
                    "{attempt:?} was doubled by a stop at {place}"
                );
            }
            assert_eq!(
                attempts.len(),
                10,
                "five deliveries with two attempts each after a stop at {place}: {attempts:?}"
            );
        }
        fanfare.balance().await
    });
}

#[test]
fn what_was_settled_before_an_orderly_stop_is_not_given_out_again() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;
        for round in 1..=5 {
            for total in 0..20 {
                tenant.client.publish(&order("order.paid", total)).await?;
            }
            requests(&receiver, 21 * round - 1).await?;
            for service in [Service::Fanout, Service::Dispatcher] {
                let status = fanfare.services.get(service).stop(PATIENCE).await?;
                assert!(status.success(), "{service:?} ended with {status}");
                fanfare.services.get_mut(service).start_again().await?;
            }
            tenant.client.publish(&order("order.paid", 20)).await?;
            requests(&receiver, 21 * round).await?;
            for service in [Service::Fanout, Service::Dispatcher] {
                let metrics = fanfare.services.get(service).metrics().await?;
                let again = metrics.lines().filter(|line| line.contains("redelivered=\"true\"")).collect::<Vec<_>>();
                assert!(!again.is_empty() && again.iter().all(|line| line.ends_with(" 0")), "{again:?}");
            }
        }
        fanfare.balance().await
    });
}

#[test]
fn what_a_killed_dispatcher_held_goes_on_long_before_its_lease_ends() {
    story(async {
        // The lease is longer than this story's patience.
        let mut fanfare = Fanfare::start_with(&[("FANFARE_DISPATCHER__TIMEOUT", "300s")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::answering(Answer::hang()).await?;
        // The dead one's room is room for what it held.
        tenant.webhook_with(&receiver, "order.paid", &json!({ "maxInFlight": 1 })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        let dispatcher = fanfare.services.get_mut(Service::Dispatcher);
        dispatcher.kill();
        receiver.answer(200);
        dispatcher.start_again().await?;
        tenant.delivery_that_is(&event, "delivered").await?;
        let requests = receiver.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].header("fanfare-redelivery"), Some("true"), "it may have come before, and says so");
        assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
        fanfare.balance().await
    });
}

#[test]
fn two_dispatchers_with_copies_of_the_same_messages_call_the_receiver_once_each() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook_with(&receiver, "order.paid", &json!({ "maxInFlight": 200 })).await?;
        fanfare.services.dispatcher.process().freeze();
        let client = &tenant.client;
        let published =
            stream::iter(0..10_000_u32).map(|total| async move { client.publish(&order("order.paid", total)).await });
        published.buffer_unordered(64).collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>>>()?;
        fanfare.services.dispatcher.kill();
        let copied = copy_all(&fanfare, 10_000).await?;
        assert_eq!(copied, 10_000);
        fanfare.services.dispatcher.start_again().await?;
        let _second = fanfare.another(Service::Dispatcher).await?;
        requests(&receiver, 10_000).await?;
        fanfare.balance().await?;
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for request in receiver.requests() {
            *seen.entry(request.header("webhook-id").unwrap_or_default().to_owned()).or_default() += 1;
        }
        assert_eq!(seen.len(), 10_000);
        assert!(
            seen.values().all(|count| *count == 1),
            "each id once: {:?}",
            seen.iter().find(|(_, count)| **count > 1)
        );
        Ok(())
    });
}

/// Publishes a copy of every message that waits for a dispatcher; returns how many deliveries were copied.
async fn copy_all(fanfare: &Fanfare, wanted: usize) -> Result<usize> {
    use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
    let connection = lapin::Connection::connect(&fanfare.amqp_url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (mut messages, mut copied) = (Vec::new(), 0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while copied < wanted {
        match channel.basic_get("fanfare.deliveries".into(), BasicGetOptions::default()).await? {
            Some(message) => {
                let batch: serde_json::Value = serde_json::from_slice(&message.data)?;
                let events = batch["events"].as_array().into_iter().flatten();
                copied += events.map(|event| event["deliveries"].as_array().map_or(0, Vec::len)).sum::<usize>();
                messages.push(message);
            }
            None => {
                anyhow::ensure!(std::time::Instant::now() < deadline, "only {copied} of {wanted} deliveries wait");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Copy and original side by side, so that two dispatchers get them at about the same time.
    for message in &messages {
        for _ in 0..2 {
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(
                "fanfare.deliveries".into(),
                "main".into(),
                options,
                &message.data,
                message.properties.clone(),
            );
            sent.await?.await?;
        }
    }
    for message in &messages {
        message.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(copied)
}
