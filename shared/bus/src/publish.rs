//! Publishing: batches that form by themselves, sent with `mandatory`, done when the broker has confirmed them.
//!
//! What gathers while earlier publishes wait for their confirms goes out together, up to 32 items or 64 KiB; nothing ever
//! waits for a batch to fill (architecture.md, Cost of the hot path).

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{ANSWER_WITHIN, CLOSE_WITHIN, Dialer, Link, follow},
    message::{EventItem, VERSION, VERSION_HEADER},
    metrics::{METRICS, Unconfirmed},
    topology,
};

/// A batch holds no more items than this (an item: a delivery, or an event that has none yet).
pub const BATCH_ITEMS: usize = 32;
/// A batch is closed when it reaches this size.
const BATCH_BYTES: usize = 64 * 1024;
/// Publishes under way for one route before further ones wait for a full batch.
const EAGER: usize = 1;
/// Publishes under way at most for one route.
const IN_FLIGHT: usize = 32;
/// Items that callers may have handed over and not yet have confirmed.
const ITEMS_UNCONFIRMED: usize = 4_096;
/// Bytes that callers may have handed over and not yet have confirmed: lapin buffers without bound while blocked.
const BYTES_UNCONFIRMED: usize = 16 * 1024 * 1024;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    exchange: Cow<'static, str>,
    key: Cow<'static, str>,
}

impl Route {
    /// A tenant's events.
    pub fn events(tenant: &fanfare_domain::TenantId) -> Self {
        Self { exchange: topology::EVENTS.into(), key: topology::events_queue(tenant).into() }
    }

    /// Deliveries that are due.
    pub fn deliveries() -> Self {
        Self { exchange: topology::DELIVERIES.into(), key: topology::KEY_MAIN.into() }
    }

    /// A tier, and where its messages go when it ends: to the dispatcher, or to the scheduler for another tier.
    pub fn tier(ms: u64, last: bool) -> Self {
        let key = if last { topology::KEY_MAIN } else { topology::KEY_DUE };
        Self { exchange: topology::tier(ms).into(), key: key.into() }
    }

    /// A tier, and a tenant's events again behind it: for those that cannot be matched yet.
    pub fn events_after(tier_ms: u64, tenant: &fanfare_domain::TenantId) -> Self {
        Self { exchange: topology::tier(tier_ms).into(), key: topology::events_queue(tenant).into() }
    }

    /// The tier of so many milliseconds, and the key that says where its end leads ([`topology::KEY_JOB`] and its like).
    pub(crate) fn tier_to(ms: u64, key: &'static str) -> Self {
        Self { exchange: topology::tier(ms).into(), key: key.into() }
    }

    /// A tier, and the intake again behind it: for what cannot be judged yet.
    pub fn ingest_after(tier_ms: u64) -> Self {
        Self { exchange: topology::tier(tier_ms).into(), key: topology::INGEST.into() }
    }

    /// What cannot be accepted: a fanout exchange, so that no header of the sender's routes it elsewhere.
    pub fn rejected() -> Self {
        Self { exchange: topology::REJECTED.into(), key: "".into() }
    }

    /// One of the queues that are reached by their own name.
    pub fn queue(name: impl Into<Cow<'static, str>>) -> Self {
        Self { exchange: "".into(), key: name.into() }
    }
}

/// Why a publish is not known to be in its queue. It may be there all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue took it: our topology is gone.
    #[error("no queue took the message")]
    Unroutable,
    /// The broker refused it: a queue is full, or has lost its majority.
    #[error("the broker refused the message")]
    Refused,
    /// The connection was lost before the confirm.
    #[error("the connection to the broker was lost")]
    Lost,
}

type Done = oneshot::Sender<Result<(), PublishError>>;

enum Body {
    /// A member of a batch.
    Item(Vec<u8>),
    /// A message of its own, bytes and properties as given.
    Whole(Box<(Vec<u8>, BasicProperties)>),
}

struct Item {
    route: Route,
    body: Body,
    weight: usize,
    done: Done,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    _counted: Unconfirmed,
}

/// Publishes for everyone in this process, over one connection.
#[derive(Clone)]
pub struct Publisher {
    items: mpsc::Sender<Item>,
    link: watch::Receiver<Link>,
    count_room: Arc<Semaphore>,
    byte_room: Arc<Semaphore>,
}

impl Publisher {
    pub(crate) fn start(dialer: Dialer, connection: Connection) -> Self {
        let (items, queue) = mpsc::channel(ITEMS_UNCONFIRMED);
        let (link, watched) = watch::channel(Link::Up);
        tokio::spawn(
            Outbox { queue, dialer, link, routes: HashMap::new(), under_way: FuturesUnordered::new() }.run(connection),
        );
        Self {
            items,
            link: watched,
            count_room: Arc::new(Semaphore::new(ITEMS_UNCONFIRMED)),
            byte_room: Arc::new(Semaphore::new(BYTES_UNCONFIRMED)),
        }
    }

    /// How the publishing connection stands.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Publishes an event with its deliveries; `Ok` once a queue has it on disk.
    pub async fn publish(&self, route: Route, item: &EventItem) -> Result<(), PublishError> {
        self.hand_over(route, Body::Item(item.to_bytes()), item.deliveries.len().max(1)).await
    }

    /// Publishes a message as it is: what is not a batch of events.
    pub async fn publish_whole(
        &self,
        route: Route,
        body: Vec<u8>,
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        self.hand_over(route, Body::Whole(Box::new((body, properties))), 1).await
    }

    /// Publishes, again and again until the broker has confirmed. Ends without `Ok` only with the process; then what was
    /// to be published is still unacked somewhere.
    pub async fn publish_surely(&self, route: Route, item: &EventItem) {
        let mut pause = Duration::from_millis(50);
        while let Err(error) = self.publish(route.clone(), item).await {
            tracing::warn!(exchange = %route.exchange, key = %route.key, %error, "publishing again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn hand_over(&self, route: Route, body: Body, weight: usize) -> Result<(), PublishError> {
        let bytes = match &body {
            Body::Item(bytes) => bytes.len(),
            Body::Whole(whole) => whole.0.len(),
        };
        let bytes = u32::try_from(bytes.min(BYTES_UNCONFIRMED)).unwrap_or(u32::MAX);
        let count = self.count_room.clone().acquire_owned().await.map_err(|_| PublishError::Lost)?;
        let room = self.byte_room.clone().acquire_many_owned(bytes).await.map_err(|_| PublishError::Lost)?;
        let (done, confirmed) = oneshot::channel();
        let item = Item { route, body, weight, done, _room: (count, room), _counted: Unconfirmed::one() };
        self.items.send(item).await.map_err(|_| PublishError::Lost)?;
        confirmed.await.unwrap_or(Err(PublishError::Lost))
    }
}

/// What waits for one route, and how many publishes of it wait for their confirms.
#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    weight: usize,
    bytes: usize,
    in_flight: usize,
}

impl Waiting {
    fn push(&mut self, item: Item) {
        self.weight += item.weight;
        self.bytes += item.bytes();
        self.items.push_back(item);
    }

    /// Whether the next batch goes now: at once while little is under way, else when it is full.
    fn goes(&self) -> bool {
        let full = self.weight >= BATCH_ITEMS || self.bytes >= BATCH_BYTES;
        !self.items.is_empty() && (self.in_flight < EAGER || (full && self.in_flight < IN_FLIGHT))
    }

    /// Takes the next batch: as many items as fit, at least one; what is no batch's member goes alone.
    fn take(&mut self) -> Vec<Item> {
        let (mut batch, mut weight, mut bytes) = (Vec::new(), 0, 0);
        while let Some(item) = self.items.front() {
            let alone = matches!(item.body, Body::Whole(_));
            let fits = weight + item.weight <= BATCH_ITEMS && bytes + item.bytes() <= BATCH_BYTES && !alone;
            if !batch.is_empty() && !fits {
                break;
            }
            weight += item.weight;
            bytes += item.bytes();
            batch.extend(self.items.pop_front());
            if alone {
                break;
            }
        }
        self.weight -= weight;
        self.bytes -= bytes;
        self.in_flight += 1;
        batch
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match &self.body {
            Body::Item(bytes) => bytes.len(),
            Body::Whole(whole) => whole.0.len(),
        }
    }
}

type Confirmed = (Route, Vec<Item>, Result<(), PublishError>);

/// The one task that publishes.
struct Outbox {
    queue: mpsc::Receiver<Item>,
    dialer: Dialer,
    link: watch::Sender<Link>,
    routes: HashMap<Route, Waiting>,
    under_way: FuturesUnordered<BoxFuture<'static, Confirmed>>,
}

impl Outbox {
    async fn run(mut self, first: Connection) {
        let mut connection = Some(first);
        loop {
            let current = match connection.take() {
                Some(current) => current,
                None => match self.dialer.dial_again("publish").await {
                    Some(current) => current,
                    None => return, // what waits is told so: its senders are dropped
                },
            };
            let gone = CancellationToken::new();
            let follower = follow(&current, self.link.clone(), gone.clone());
            let opened = async {
                let channel = current.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok::<Channel, lapin::Error>(channel)
            };
            match timeout(ANSWER_WITHIN, opened).await {
                Ok(Ok(channel)) => {
                    METRICS.blocked.set(0); // a new connection is told anew
                    self.link.send_replace(Link::Up);
                    let ended = self.publish_over(&channel, &gone).await;
                    self.link.send_replace(Link::Away);
                    if ended {
                        follower.abort();
                        let _ = timeout(CLOSE_WITHIN, current.close(200, "done".into())).await; // the process ends either way
                        return;
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "the broker gave no channel: connecting again"),
                Err(_) => tracing::warn!("no answer to a wish for a channel: connecting again"),
            }
            follower.abort();
            let _ = timeout(CLOSE_WITHIN, current.close(200, "connecting again".into())).await; // it is broken: that is why
        }
    }

    /// Publishes until nobody is left to publish for (`true`) or the channel is lost (`false`).
    async fn publish_over(&mut self, channel: &Channel, gone: &CancellationToken) -> bool {
        let mut lost = false;
        // A lost connection fails what is under way, at once as a rule; it must not keep us from making another.
        let given_up = tokio::time::sleep(Duration::MAX);
        tokio::pin!(given_up);
        // What waited when the last channel was lost.
        for route in self.routes.keys().cloned().collect::<Vec<_>>() {
            self.send(channel, &route);
        }
        loop {
            if lost && self.under_way.is_empty() {
                return false;
            }
            if lost && given_up.deadline() > Instant::now() + CLOSE_WITHIN {
                given_up.as_mut().reset(Instant::now() + CLOSE_WITHIN);
            }
            tokio::select! {
                biased;
                () = &mut given_up, if lost => {
                    self.under_way.clear(); // their callers are told by their senders' end
                    self.routes.values_mut().for_each(|waiting| waiting.in_flight = 0);
                    return false;
                }
                Some((route, items, result)) = self.under_way.next() => {
                    lost |= result == Err(PublishError::Lost);
                    for item in items {
                        let _ = item.done.send(result); // the caller may have given up waiting
                    }
                    if let Some(waiting) = self.routes.get_mut(&route) {
                        waiting.in_flight -= 1;
                        if waiting.in_flight == 0 && waiting.items.is_empty() {
                            self.routes.remove(&route);
                        }
                    }
                    if !lost {
                        self.send(channel, &route);
                    }
                }
                () = gone.cancelled(), if !lost => lost = true,
                item = self.queue.recv(), if !lost => match item {
                    Some(item) => {
                        // Who is ready to publish by now is let to: else the first of many that were woken together would go
                        // alone.
                        tokio::task::yield_now().await;
                        self.gather(channel, item);
                    }
                    None if self.under_way.is_empty() => return true,
                    None => {
                        // The last publishers are gone; what is under way is still confirmed.
                        if let Some((_, items, result)) = self.under_way.next().await {
                            for item in items {
                                let _ = item.done.send(result); // nobody waits any more
                            }
                        }
                    }
                },
            }
        }
    }

    /// Takes this item and all that have gathered behind it, then sends what goes.
    fn gather(&mut self, channel: &Channel, first: Item) {
        let mut touched = vec![first.route.clone()];
        self.routes.entry(first.route.clone()).or_default().push(first);
        while let Ok(item) = self.queue.try_recv() {
            if !touched.contains(&item.route) {
                touched.push(item.route.clone());
            }
            self.routes.entry(item.route.clone()).or_default().push(item);
        }
        for route in touched {
            self.send(channel, &route);
        }
    }

    fn send(&mut self, channel: &Channel, route: &Route) {
        while let Some(waiting) = self.routes.get_mut(route).filter(|waiting| waiting.goes()) {
            let items = waiting.take();
            self.under_way.push(Box::pin(publish(channel.clone(), route.clone(), items)));
        }
    }
}

async fn publish(channel: Channel, route: Route, mut items: Vec<Item>) -> Confirmed {
    let (body, properties) = match items.first_mut().map(|item| &mut item.body) {
        Some(Body::Whole(whole)) => std::mem::take(whole.as_mut()),
        _ => (join(&items), batch_properties()),
    };
    let begun = Instant::now();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirmed = async {
        let publish = channel.basic_publish(name(&route.exchange), name(&route.key), options, &body, properties);
        publish.await?.await
    };
    let result = match confirmed.await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        // Returned as unroutable and confirmed all the same (rabbitmq.com/docs/confirms).
        Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Unroutable),
        Ok(Confirmation::Nack(_)) => Err(PublishError::Refused),
        Ok(Confirmation::NotRequested) => unreachable!("the channel is opened with confirm_select"),
        Err(error) => {
            tracing::warn!(%error, "a publish is not confirmed");
            Err(PublishError::Lost)
        }
    };
    METRICS.published(&route.exchange, result, begun.elapsed());
    (route, items, result)
}

fn name(text: &str) -> lapin::types::ShortString {
    text.into()
}

fn join(items: &[Item]) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + items.iter().map(|item| item.bytes() + 1).sum::<usize>());
    body.extend_from_slice(b"{\"events\":[");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        if let Body::Item(bytes) = &item.body {
            body.extend_from_slice(bytes);
        }
    }
    body.extend_from_slice(b"]}");
    body
}

pub(crate) fn batch_properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(VERSION_HEADER.into(), AMQPValue::LongInt(VERSION));
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into()).with_headers(headers)
}
