//! The floor: one process and two quorum queues. It publishes with confirm, consumes, publishes again with confirm,
//! consumes, POSTs and acks: one event a message, hundreds in flight at each step, no Redis, no rules.
use super::child::{FloorJob, Published};
use super::events::{self, Event};
use super::load::{confirmed, confirming, publish};
use anyhow::{Context, Result, bail, ensure};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use std::collections::VecDeque;
use tokio::task::{JoinHandle, JoinSet};

const FIRST: &str = "bench.first";
const SECOND: &str = "bench.second";

pub(super) async fn run(job: FloorJob) -> Result<()> {
    let events = events::make(job.events)?;
    // A connection each for what publishes and what consumes, as Fanfare has them.
    let properties = ConnectionProperties::default;
    let publishing = Connection::connect(&job.amqp_url, properties()).await.context("connecting")?;
    let consuming = Connection::connect(&job.amqp_url, properties()).await.context("connecting")?;
    let channel = publishing.create_channel().await?;
    for queue in [FIRST, SECOND] {
        declare(&channel, queue).await?;
    }
    let first = consume(&consuming, FIRST, job.in_flight).await?;
    let second = consume(&consuming, SECOND, job.in_flight).await?;
    let (publisher, relayer) = (confirming(&publishing).await?, confirming(&publishing).await?);

    let published = Published::started(events::mean_bytes(&events))?;
    let count = job.events;
    let steps = [
        tokio::spawn(publish_all(publisher, job.in_flight, events)),
        tokio::spawn(relay_all(first, relayer, count)),
        tokio::spawn(send_all(second, job.target, job.posts, count)),
    ];
    let steps = steps.map(|step: JoinHandle<Result<()>>| async { step.await? });
    futures::future::try_join_all(steps).await?;
    let published = published.finished()?;

    for queue in [FIRST, SECOND] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    published.tell()
}

async fn declare(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.map(drop)
}

async fn consume(connection: &Connection, queue: &str, prefetch: u16) -> lapin::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    Ok((channel, consumer))
}

async fn publish_all(channel: Channel, in_flight: u16, events: Vec<Event>) -> Result<()> {
    let mut unconfirmed = FuturesOrdered::new();
    for event in &events {
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(event.id.as_str().into());
        unconfirmed.push_back(publish(&channel, "", FIRST, &event.json, properties).await?);
        while unconfirmed.len() >= in_flight.into() {
            unconfirmed.next().await.map_or(Ok(()), confirmed)?;
        }
    }
    while let Some(confirmation) = unconfirmed.next().await {
        confirmed(confirmation)?;
    }
    Ok(())
}

/// From the first queue to the second; acked when confirmed, in multiples.
async fn relay_all((acks, mut queue): (Channel, Consumer), channel: Channel, count: usize) -> Result<()> {
    let (mut taken, mut relayed) = (0, 0);
    let mut unconfirmed = FuturesOrdered::new();
    while relayed < count {
        tokio::select! {
            biased;
            Some((tag, confirmation)) = unconfirmed.next(), if !unconfirmed.is_empty() => {
                confirmed(confirmation)?;
                let mut last = tag;
                relayed += 1;
                while let Some(Some((tag, confirmation))) = unconfirmed.next().now_or_never() {
                    confirmed(confirmation)?;
                    last = tag;
                    relayed += 1;
                }
                acks.basic_ack(last, BasicAckOptions { multiple: true }).await?;
            }
            Some(message) = queue.next(), if taken < count => {
                let message = message?;
                let confirm = publish(&channel, "", SECOND, &message.data, message.properties).await?;
                unconfirmed.push_back(confirm.map(move |confirmation| (message.delivery_tag, confirmation)));
                taken += 1;
            }
            else => bail!("the first queue's consumer was cancelled"),
        }
    }
    Ok(())
}

/// From the second queue to the receiver; acked when answered, in multiples as far as all before are answered.
async fn send_all((acks, mut queue): (Channel, Consumer), target: String, posts: usize, count: usize) -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default(); // reqwest wants one, even for http
    let client = reqwest::Client::builder().pool_max_idle_per_host(posts).no_proxy().build()?;
    let (mut taken, mut sent) = (0, 0);
    let mut answered = Answered::default();
    let mut sending = JoinSet::new();
    while sent < count {
        tokio::select! {
            biased;
            Some(done) = sending.join_next(), if !sending.is_empty() => {
                let mut done = Some(done);
                while let Some(tag) = done {
                    answered.note(tag??);
                    sent += 1;
                    done = sending.try_join_next();
                }
                if let Some(tag) = answered.up_to() {
                    acks.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
                }
            }
            Some(message) = queue.next(), if taken < count && sending.len() < posts => {
                let message = message?;
                let id = message.properties.message_id().as_ref().context("a message without id")?.to_string();
                let request = client.post(&target).header("content-type", "application/cloudevents+json");
                let request = request.header("webhook-id", id).body(message.data);
                sending.spawn(async move {
                    let answer = request.send().await?;
                    ensure!(answer.status().is_success(), "the receiver answers {}", answer.status());
                    answer.bytes().await?;
                    Ok(message.delivery_tag)
                });
                taken += 1;
            }
            else => bail!("the second queue's consumer was cancelled"),
        }
    }
    Ok(())
}

/// Which of a channel's messages, numbered from 1, are answered.
#[derive(Default)]
struct Answered {
    acked: u64,
    after: VecDeque<bool>,
}

impl Answered {
    fn note(&mut self, tag: u64) {
        let place = usize::try_from(tag - self.acked - 1).unwrap_or_default();
        self.after.resize(self.after.len().max(place + 1), false);
        self.after[place] = true;
    }

    /// The last before which all are, where there are new ones.
    fn up_to(&mut self) -> Option<u64> {
        let before = self.acked;
        while self.after.front() == Some(&true) {
            self.after.pop_front();
            self.acked += 1;
        }
        (self.acked > before).then_some(self.acked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_go_as_far_as_all_before_are_answered() {
        let mut answered = Answered::default();
        let mut noted = |tag| {
            answered.note(tag);
            answered.up_to()
        };
        assert_eq!([2, 3, 1, 5, 4].map(&mut noted), [None, None, Some(3), None, Some(5)]);
    }
}
