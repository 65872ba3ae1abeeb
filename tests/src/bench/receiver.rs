//! Answers every request with 200 and nothing, as cheaply as hyper can, and counts deliveries by their `webhook-id`.
//!
//! Targets are `/0`, `/1` and so on; `/hang` is never answered, nor counted. Below `/bench/` it talks to the driver.
use super::child::{self, ReceiverJob};
use super::events;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;

/// Forgets all there was; what follows is read for stamps, or not.
pub(super) const RESET: &str = "/bench/reset";
pub(super) const RESET_STAMPED: &str = "/bench/reset/stamped";
/// The target that never answers.
pub(super) const HANG: &str = "/hang";
/// How many different deliveries there were.
pub(super) const COUNT: &str = "/bench/count";
/// A [`Received`].
pub(super) const REPORT: &str = "/bench/report";

/// What came since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Received {
    /// Different `webhook-id`s.
    pub(super) deliveries: usize,
    /// Requests with a `webhook-id` that had come before.
    pub(super) duplicates: usize,
    /// Requests without one.
    pub(super) nameless: usize,
    /// Requests by target.
    pub(super) by_target: Vec<usize>,
    /// Mean size of a body.
    pub(super) body_bytes: usize,
    /// When the last delivery came, and when a tenth and nine tenths of them had, in microseconds since 1970.
    pub(super) last_micros: u64,
    pub(super) tenth_micros: u64,
    pub(super) nine_tenths_micros: u64,
    /// The longest time between two deliveries, in microseconds.
    pub(super) gap_micros: u64,
    /// From the stamp to here, in microseconds, in ascending order.
    pub(super) latencies: Vec<u64>,
}

impl Received {
    /// A percentile of the latency, in milliseconds.
    pub(super) fn latency_millis(&self, percent: f64) -> f64 {
        let place = (self.latencies.len() as f64 * percent / 100.0).ceil() as usize;
        let micros = self.latencies.get(place.saturating_sub(1)).copied();
        micros.unwrap_or_default() as f64 / 1_000.0
    }
}

pub(super) async fn run(job: &ReceiverJob) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, job.port)).await.context("listening")?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let seen = seen.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, &seen));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.auto_date_header(false);
            let _ = server.serve_connection(TokioIo::new(stream), answer).await; // a client that went away
        });
    }
}

async fn answer(request: Request<Incoming>, seen: &Mutex<Seen>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if path.starts_with("/bench/") {
        return Ok(lock(seen).tell(path));
    }
    if path == HANG {
        std::future::pending::<()>().await;
    }
    let target = path.strip_prefix('/').and_then(|number| number.parse().ok()).unwrap_or_default();
    let id = request.headers().get("webhook-id").map(|id| lock(seen).hash(id.as_bytes()));
    let is_stamped = lock(seen).is_stamped;
    let mut body = request.into_body();
    let (mut bytes, mut stamp) = (0, None);
    if is_stamped {
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        (bytes, stamp) = (body.len(), events::stamp(&body));
    } else {
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    }
    lock(seen).note(id, target, bytes, stamp);
    Ok(Response::new(Full::default()))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Seen {
    hasher: RandomState,
    /// Hashes of `webhook-id`s: two different ones of a million share one once in 37 million runs.
    ids: HashSet<u64, BuildHasherDefault<Hashed>>,
    times: Vec<u64>,
    by_target: Vec<usize>,
    latencies: Vec<u64>,
    requests: usize,
    nameless: usize,
    bytes: usize,
    is_stamped: bool,
}

impl Seen {
    fn hash(&self, id: &[u8]) -> u64 {
        self.hasher.hash_one(id)
    }

    fn note(&mut self, id: Option<u64>, target: usize, bytes: usize, stamp: Option<u64>) {
        let now = child::now_micros();
        self.requests += 1;
        self.bytes += bytes;
        if target < 100 {
            self.by_target.resize(self.by_target.len().max(target + 1), 0);
            self.by_target[target] += 1;
        }
        let Some(id) = id else {
            self.nameless += 1;
            return;
        };
        if self.ids.insert(id) {
            self.times.push(now);
            self.latencies.extend(stamp.map(|stamp| now.saturating_sub(stamp)));
        }
    }

    fn tell(&mut self, path: &str) -> Response<Full<Bytes>> {
        let text = match path {
            RESET | RESET_STAMPED => {
                *self = Self { is_stamped: path == RESET_STAMPED, ..Self::default() };
                String::new()
            }
            COUNT => self.ids.len().to_string(),
            REPORT => serde_json::to_string(&self.received()).unwrap_or_default(),
            _ => return status(StatusCode::NOT_FOUND),
        };
        Response::new(text.into())
    }

    fn received(&self) -> Received {
        let at = |tenths: usize| {
            self.times.get((self.times.len() * tenths / 10).saturating_sub(1)).copied().unwrap_or_default()
        };
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        Received {
            deliveries: self.ids.len(),
            duplicates: self.requests - self.nameless - self.ids.len(),
            nameless: self.nameless,
            by_target: self.by_target.clone(),
            body_bytes: self.bytes / self.requests.max(1),
            last_micros: at(10),
            tenth_micros: at(1),
            nine_tenths_micros: at(9),
            gap_micros: self.times.windows(2).map(|two| two[1].saturating_sub(two[0])).max().unwrap_or_default(),
            latencies,
        }
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Passes on what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_told_from_duplicates() {
        let mut seen = Seen::default();
        let ids = ["a", "b", "a"].map(|id| seen.hash(id.as_bytes()));
        for (number, id) in ids.into_iter().enumerate() {
            seen.note(Some(id), number, 100, Some(0));
        }
        seen.note(None, 0, 100, None);
        let received = seen.received();
        let counts = (received.deliveries, received.duplicates, received.nameless, received.body_bytes);
        assert_eq!(counts, (2, 1, 1, 100));
        assert_eq!(received.by_target, [2, 1, 1]);
        assert_eq!(received.latencies.len(), 2);
        assert!(received.last_micros >= received.tenth_micros && received.tenth_micros > 0);
        seen.tell(RESET);
        assert_eq!(seen.received(), Received::default());
    }
}
