//! Publishes prepared events as fast as they are taken, or at a steady rate.
use super::child::{How, Ingest, LoadJob, Published, now_micros};
use super::events::{self, Event};
use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a batch holds at most (contract.md).
const BATCH_EVENTS: usize = 100;
const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";
/// How often a request is tried that is answered with 429 or 503, and the pause between.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(job: LoadJob) -> Result<()> {
    let events = events::make(job.events)?;
    let published = match job.how {
        How::Single { ingest, connections } => {
            let size = events::mean_bytes(&events);
            let bodies = events.into_iter().map(|event| event.json).collect();
            post_all(&ingest, connections, STRUCTURED, bodies, size).await?
        }
        How::Batch { ingest, connections } => {
            let bodies = events.chunks(BATCH_EVENTS).map(batch).collect();
            post_all(&ingest, connections, BATCHED, bodies, events::mean_bytes(&events)).await?
        }
        How::Steady { ingest, connections, per_second } => steadily(&ingest, connections, per_second, events).await?,
        How::Amqp { url, tenant, in_flight } => publish_all(&url, &tenant, in_flight, &events).await?,
    };
    published.tell()
}

fn batch(events: &[Event]) -> Bytes {
    let mut body = BytesMut::with_capacity(events.iter().map(|event| event.json.len() + 1).sum::<usize>() + 1);
    for (number, event) in events.iter().enumerate() {
        body.put_u8(if number == 0 { b'[' } else { b',' });
        body.put_slice(&event.json);
    }
    body.put_u8(b']');
    body.freeze()
}

/// What the connections share.
struct Posting {
    bodies: Vec<Bytes>,
    next: AtomicUsize,
    refused: AtomicU64,
}

/// Each connection takes the next body when the one before is answered.
async fn post_all(
    ingest: &Ingest,
    connections: usize,
    content_type: &'static str,
    bodies: Vec<Bytes>,
    event_bytes: usize,
) -> Result<Published> {
    let connections = connect(ingest, connections).await?;
    let posting = Arc::new(Posting { bodies, next: AtomicUsize::default(), refused: AtomicU64::default() });
    let published = Published::started(event_bytes)?;
    let mut all = JoinSet::new();
    for mut connection in connections {
        let posting = posting.clone();
        all.spawn(async move {
            while let Some(body) = posting.bodies.get(posting.next.fetch_add(1, Ordering::Relaxed)) {
                connection.publish(content_type, body.clone(), &posting.refused).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    Published { refused: posting.refused.load(Ordering::Relaxed), ..published }.finished()
}

/// Each event is stamped and sent when its time has come, on a connection that is free; a wait for one counts.
async fn steadily(ingest: &Ingest, connections: usize, per_second: u32, events: Vec<Event>) -> Result<Published> {
    let room = Arc::new(Semaphore::new(connections));
    let free = Arc::new(Mutex::new(connect(ingest, connections).await?));
    let refused = Arc::new(AtomicU64::default());
    let mut late = 0;
    let period = Duration::from_secs(1) / per_second;
    let published = Published::started(events::mean_bytes(&events))?;
    let mut ticks = tokio::time::interval(period);
    let mut all = JoinSet::new();
    for event in events {
        let due = ticks.tick().await;
        late = late.max(due.elapsed().as_micros());
        let body = event.stamped(now_micros())?;
        let (room, free, refused) = (room.clone(), free.clone(), refused.clone());
        all.spawn(async move {
            let _room = room.acquire().await?;
            let taken = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = taken.context("no connection is free")?;
            connection.publish(STRUCTURED, body, &refused).await?;
            free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            anyhow::Ok(())
        });
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    let (late_micros, refused) = (late.try_into()?, refused.load(Ordering::Relaxed));
    Published { late_micros, refused, ..published }.finished()
}

/// A kept connection to ingest.
struct Post {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    key: HeaderValue,
}

async fn connect(ingest: &Ingest, connections: usize) -> Result<Vec<Post>> {
    let mut made = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(&ingest.address).await.context("connecting to ingest")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection); // its errors come to the sender too
        let key = HeaderValue::from_str(&format!("Bearer {}", ingest.key))?;
        made.push(Post { sender, host: HeaderValue::from_str(&ingest.address)?, key });
    }
    Ok(made)
}

impl Post {
    /// Publishes what must be accepted, all of it.
    async fn publish(&mut self, content_type: &'static str, body: Bytes, refused: &AtomicU64) -> Result<()> {
        for _ in 0..TRIES {
            let request = Request::post("/v1/events")
                .header(HOST, self.host.clone())
                .header(AUTHORIZATION, self.key.clone())
                .header(CONTENT_TYPE, content_type)
                .body(Full::new(body.clone()))?;
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await.context("publishing")?;
            let status = answer.status();
            let said = answer.into_body().collect().await?.to_bytes();
            match status {
                StatusCode::ACCEPTED => return check_accepted(&said),
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                status => bail!("ingest answers {status}: {}", String::from_utf8_lossy(&said)),
            }
        }
        bail!("ingest refuses the same events with 429 or 503, {TRIES} times")
    }
}

/// A batch is answered with 202 also where some of it was refused.
fn check_accepted(said: &[u8]) -> Result<()> {
    const ERROR: &[u8] = b"\"error\"";
    let is_whole = !said.windows(ERROR.len()).any(|found| found == ERROR);
    ensure!(is_whole, "ingest refuses events of a batch: {}", String::from_utf8_lossy(said));
    Ok(())
}

/// One message an event, with up to `in_flight` of them unconfirmed.
async fn publish_all(url: &str, tenant: &str, in_flight: u16, events: &[Event]) -> Result<Published> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.context("connecting")?;
    let channel = confirming(&connection).await?;
    let properties = BasicProperties::default().with_content_type(STRUCTURED.into()).with_delivery_mode(2);
    let published = Published::started(events::mean_bytes(events))?;
    let mut unconfirmed = FuturesOrdered::new();
    for event in events {
        let key = format!("{tenant}.{}", event.kind);
        unconfirmed.push_back(publish(&channel, "fanfare.ingest", &key, &event.json, properties.clone()).await?);
        while unconfirmed.len() >= in_flight.into() {
            unconfirmed.next().await.map_or(Ok(()), confirmed)?;
        }
    }
    while let Some(confirmation) = unconfirmed.next().await {
        confirmed(confirmation)?;
    }
    published.finished()
}

pub(super) async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Hands a message over; to be confirmed.
pub(super) async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish(exchange.into(), key.into(), mandatory, body, properties).await
}

/// Whether it is in a queue.
pub(super) fn confirmed(confirmation: lapin::Result<Confirmation>) -> Result<()> {
    match confirmation? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => bail!("no queue took a message"),
        Confirmation::Nack(_) | Confirmation::NotRequested => bail!("the broker refused a message"),
    }
}
