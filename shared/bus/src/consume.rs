//! Consuming: a bounded number of messages at work, each acked when its work is settled: at once, or soon after with others.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    mem,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use serde::Deserialize;
use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{ANSWER_WITHIN, Bus, CLOSE_WITHIN},
    message::{self, Batch, VERSION_HEADER},
    metrics::{METRICS, QueueMetrics},
    publish::Route,
    topology::DEAD,
};

/// How long a finished message waits for others that are at work, to be acked with them: an ack that goes alone costs the
/// broker a write to disk and threads woken for it, many at once cost hardly more. A quarter of the prefetch is enough.
const ACKS_GATHER: Duration = Duration::from_millis(50);
/// How long one that is at work keeps those behind it from being acked, in one with it: each is else an ack of its own.
const ACKS_IN_TURN: Duration = Duration::from_millis(250);

/// A message to work on. Its ack is kept by the loop, so that the work cannot forget it.
pub struct Message {
    /// Its bytes.
    pub body: Vec<u8>,
    /// The broker has given it out before: a consumer was lost.
    pub redelivered: bool,
    /// The exchange it came through: its publisher's, or `fanfare.due` for what has waited in a tier.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Its properties.
    pub properties: lapin::BasicProperties,
    pub(crate) queue: Arc<QueueMetrics>,
}

impl Message {
    /// The version of its form, where it says so.
    pub fn version(&self) -> Option<i32> {
        match self.properties.headers().as_ref()?.inner().get(VERSION_HEADER)? {
            AMQPValue::LongInt(version) => Some(*version),
            AMQPValue::LongLongInt(version) => i32::try_from(*version).ok(),
            _ => None,
        }
    }
}

/// What became of a message's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// All of it is recorded or confirmed: the broker may forget the message.
    Ack,
    /// It could not be done, and the process is ending: the broker gives the message to another.
    Leave,
}

impl Bus {
    /// Reads a message's batch. What is none is kept in `fanfare.dead` for the operator; `None` then, to be acked.
    pub async fn read(&self, message: &Message) -> Option<Batch> {
        let batch: Batch = self.read_as(message).await?;
        let items: usize = batch.events.iter().map(|event| event.deliveries.len().max(1)).sum();
        message.queue.items.observe(items as f64);
        Some(batch)
    }

    /// The same for what else our queues hold.
    pub(crate) async fn read_as<T: for<'de> Deserialize<'de>>(&self, message: &Message) -> Option<T> {
        let why = match message::read(message.version(), &message.body) {
            Ok(read) => return Some(read),
            Err(why) => why,
        };
        METRICS.poison.inc();
        tracing::error!(error = %why, routing_key = message.routing_key, "a message that cannot be read goes to fanfare.dead");
        loop {
            // Its bytes alone: headers of whoever wrote it could route it elsewhere (`CC`), or make it vanish.
            let properties = lapin::BasicProperties::default().with_delivery_mode(2);
            match self.publisher().publish_whole(Route::queue(DEAD), message.body.clone(), properties).await {
                Ok(()) => return None,
                Err(error) => tracing::warn!(%error, "cannot keep a dead message: trying again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Consumes `queue` until `stop`, with at most `prefetch` messages at work, then settles what is at work and returns.
    /// A lost connection is made again; what it had given out is given again by the broker.
    pub async fn consume<F, W>(&self, queue: &str, prefetch: u16, stop: &CancellationToken, work: F)
    where
        F: Fn(Message) -> W,
        W: Future<Output = Settled> + Send + 'static,
    {
        let mut at_work = AtWork::of(queue, prefetch);
        while !stop.is_cancelled() {
            let Some(channel) = self.consuming_channel().await else { break };
            match tokio::time::timeout(ANSWER_WITHIN, open(&channel, queue, prefetch)).await {
                Ok(Ok(consumer)) => {
                    at_work.run(&channel, consumer, stop, &work).await;
                    if stop.is_cancelled() {
                        // Answered when the broker has the acks, which the process's end could else overtake.
                        let _ = tokio::time::timeout(CLOSE_WITHIN, channel.close(200, "done".into())).await;
                    }
                }
                Err(_) => tracing::warn!(queue, "no answer to a wish to consume: trying again"),
                Ok(Err(error)) => {
                    tracing::warn!(queue, %error, "cannot consume: trying again");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            at_work.forget_channel();
        }
        // Requests under way are recorded also where the connection went first.
        while at_work.tasks.join_next().await.is_some() {}
    }
}

async fn open(channel: &Channel, queue: &str, prefetch: u16) -> lapin::Result<Consumer> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

/// The messages at work: their tasks, and the tags that are still to be acked on the present channel.
struct AtWork {
    queue: Arc<QueueMetrics>,
    tasks: JoinSet<Settled>,
    tags: HashMap<Id, u64>,
    open: BTreeMap<u64, Open>,
    /// How many of these are done.
    done: usize,
    /// So many need not wait for others.
    enough: usize,
}

/// A message that is not acked yet.
struct Open {
    since: Instant,
    settled: Option<Settled>,
}

impl AtWork {
    fn of(queue: &str, prefetch: u16) -> Self {
        let queue = Arc::new(METRICS.of_queue(queue));
        let enough = usize::from(prefetch / 4);
        Self { queue, tasks: JoinSet::new(), tags: HashMap::new(), open: BTreeMap::new(), done: 0, enough }
    }

    async fn run<F, W>(&mut self, channel: &Channel, mut consumer: Consumer, stop: &CancellationToken, work: &F)
    where
        F: Fn(Message) -> W,
        W: Future<Output = Settled> + Send + 'static,
    {
        let mut cancelled = false;
        let settling = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(settling);
        loop {
            tokio::select! {
                biased; // note what is done before taking more
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    if self.done == 0 {
                        settling.as_mut().reset(Instant::now() + ACKS_GATHER);
                    }
                    self.note(done);
                    tokio::task::yield_now().await; // what ends together is acked together
                    while let Some(done) = self.tasks.try_join_next_with_id() {
                        self.note(done);
                    }
                    if (self.done >= self.enough || self.tasks.is_empty()) && self.settle(channel).await.is_err() {
                        return;
                    }
                }
                () = &mut settling, if self.done > 0 => {
                    if self.settle(channel).await.is_err() {
                        return;
                    }
                    settling.as_mut().reset(Instant::now() + ACKS_GATHER);
                }
                () = stop.cancelled(), if !cancelled => {
                    cancelled = true;
                    // The consumer, not the channel: the acks below need it.
                    if channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.is_err() {
                        return;
                    }
                }
                delivery = consumer.next(), if !cancelled => match delivery {
                    Some(Ok(delivery)) => self.start(delivery, work),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "consuming was interrupted");
                        return;
                    }
                    None => return,
                },
                else => return,
            }
            if cancelled && (self.settle_all(channel).await.is_err() || self.tasks.is_empty()) {
                return;
            }
        }
    }

    fn start<F, W>(&mut self, delivery: Delivery, work: &F)
    where
        F: Fn(Message) -> W,
        W: Future<Output = Settled> + Send + 'static,
    {
        let tag = delivery.delivery_tag;
        let message = Message {
            body: delivery.data,
            redelivered: delivery.redelivered,
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            properties: delivery.properties,
            queue: self.queue.clone(),
        };
        self.queue.taken(&message);
        let task = self.tasks.spawn(work(message));
        self.tags.insert(task.id(), tag);
        self.open.insert(tag, Open { since: Instant::now(), settled: None });
    }

    fn note(&mut self, done: Result<(Id, Settled), tokio::task::JoinError>) {
        let (id, settled) = match done {
            Ok((id, settled)) => (id, Some(settled)),
            Err(error) => {
                tracing::error!(%error, "work on a message broke off: the broker gives it again");
                (error.id(), None)
            }
        };
        // A tag of a channel that is gone is nobody's any more.
        if let Some(open) = self.tags.remove(&id).and_then(|tag| self.open.get_mut(&tag)) {
            open.settled = Some(settled.unwrap_or(Settled::Leave));
            self.done += 1;
        }
    }

    /// Acks what is done up to the first that is at work. What is done behind it waits for it, unless that takes long or
    /// keeps too many.
    async fn settle(&mut self, channel: &Channel) -> lapin::Result<()> {
        self.ack_in_one(channel).await?;
        let in_turn = self.open.first_key_value().is_none_or(|(_, first)| {
            first.settled.is_none() && first.since.elapsed() < ACKS_IN_TURN && self.done < self.enough
        });
        if in_turn { Ok(()) } else { self.settle_one_by_one(channel).await }
    }

    /// Acks all that is done.
    async fn settle_all(&mut self, channel: &Channel) -> lapin::Result<()> {
        self.ack_in_one(channel).await?;
        self.settle_one_by_one(channel).await
    }

    async fn ack_in_one(&mut self, channel: &Channel) -> lapin::Result<()> {
        let mut last = None;
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.get().settled == Some(Settled::Ack)) {
            last = Some(entry.remove_entry().0);
            self.done -= 1;
        }
        match last {
            Some(last) => channel.basic_ack(last, BasicAckOptions { multiple: true }).await,
            None => Ok(()),
        }
    }

    async fn settle_one_by_one(&mut self, channel: &Channel) -> lapin::Result<()> {
        if mem::take(&mut self.done) == 0 {
            return Ok(());
        }
        for (tag, open) in self.open.extract_if(.., |_, open| open.settled.is_some()) {
            match open.settled {
                Some(Settled::Ack) => channel.basic_ack(tag, BasicAckOptions::default()).await?,
                _ => channel.basic_nack(tag, BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?,
            }
        }
        Ok(())
    }

    /// The channel is gone, and its tags with it; the work goes on, and is fenced by its claims.
    fn forget_channel(&mut self) {
        self.tags.clear();
        self.open.clear();
        self.done = 0;
    }
}
