//! Calls of scripts by many callers, gathered: what comes while earlier calls are under way goes out together, one run of a
//! script per tenant, pipelined. One by one they cost ten times as much (delivery.md, Redis, state). Scripts that one service
//! calls share their pipelines, since each costs Redis a sync of its append-only file.

use std::{collections::VecDeque, fmt::Display, io::Write, sync::Arc, time::Duration};

use fanfare_domain::TenantId;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::Value;
use tokio::sync::{mpsc, oneshot};

use crate::redis_link::{Redis, Script, StoreError};

/// Pipelines under way before further calls wait to be gathered.
const EAGER: usize = 1;
/// Pipelines under way at most.
const IN_FLIGHT: usize = 8;
/// A pipeline that takes longer keeps no other waiting: a server of a cluster hangs, perhaps.
const SLOW: Duration = Duration::from_millis(50);
/// Calls in one run of a script: what Redis does in about a millisecond.
const CALLS_PER_RUN: usize = 128;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 256;
/// Calls that callers may have handed over.
const WAITING: usize = 4_096;
/// How long a lazy call waits for a pipeline to go along with.
const LINGER: Duration = Duration::from_millis(20);

/// A script, and the shape of its answers.
pub(crate) struct Shape {
    pub(crate) script: Script,
    /// Arguments that stand before the calls'.
    pub(crate) common: Vec<String>,
    /// One more behind them, as it is at each run.
    pub(crate) changing: Option<Box<dyn Fn() -> String + Send + Sync>>,
    /// Values that stand before the calls' answers, and belong to each.
    pub(crate) leading: usize,
    /// Values per call.
    pub(crate) answers: usize,
    /// Nobody waits for it: it goes along with other calls, or alone after a while.
    pub(crate) lazy: bool,
}

/// A call's arguments, in one piece.
#[derive(Debug)]
pub(crate) struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    /// With room for what most calls have.
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(512), ends: Vec::with_capacity(8) }
    }

    pub(crate) fn with(mut self, arg: &[u8]) -> Self {
        self.bytes.extend_from_slice(arg);
        self.ends.push(self.bytes.len());
        self
    }

    pub(crate) fn shown(mut self, arg: impl Display) -> Self {
        write!(self.bytes, "{arg}").expect("memory takes what is written to it");
        self.ends.push(self.bytes.len());
        self
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

struct Call {
    /// Which of the gatherer's shapes.
    shape: usize,
    tenant: TenantId,
    args: Args,
    /// Absent where nobody waits for the answer.
    done: Option<oneshot::Sender<Result<Vec<Value>, StoreError>>>,
}

/// The one way to call a script from the hot path.
#[derive(Clone)]
pub(crate) struct Batched {
    calls: mpsc::Sender<Call>,
    shape: usize,
}

impl Batched {
    /// Scripts that go out together. Those with long arguments first: Redis reads a pipeline in pieces, and what it reads last
    /// should hold as many runs as can be.
    pub(crate) fn start<const N: usize>(redis: Redis, shapes: [Shape; N]) -> [Self; N] {
        let (calls, queue) = mpsc::channel(WAITING);
        let gatherer = Gatherer {
            redis,
            shapes: Arc::new(shapes.into()),
            waiting: VecDeque::new(),
            lazy: Vec::new(),
            under_way: FuturesUnordered::new(),
        };
        tokio::spawn(gatherer.run(queue));
        std::array::from_fn(|shape| Self { calls: calls.clone(), shape })
    }

    /// The leading values and those of this call.
    pub(crate) async fn call(&self, tenant: &TenantId, args: Args) -> Result<Vec<Value>, StoreError> {
        let (done, answer) = oneshot::channel();
        let gone = || StoreError::Away("the process is ending".to_owned());
        let call = Call { shape: self.shape, tenant: tenant.clone(), args, done: Some(done) };
        self.calls.send(call).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// A call whose answer nobody waits for, and that may fail unheard.
    pub(crate) fn tell(&self, tenant: &TenantId, args: Args) {
        let call = Call { shape: self.shape, tenant: tenant.clone(), args, done: None };
        if let Err(mpsc::error::TrySendError::Full(call)) = self.calls.try_send(call) {
            let calls = self.calls.clone();
            tokio::spawn(async move { calls.send(call).await });
        }
    }
}

impl Call {
    fn end(self, answer: Result<Vec<Value>, StoreError>) {
        if let Some(done) = self.done {
            let _ = done.send(answer); // the caller may be gone
        }
    }
}

struct Gatherer {
    redis: Redis,
    shapes: Arc<Vec<Shape>>,
    waiting: VecDeque<Call>,
    lazy: Vec<Call>,
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Gatherer {
    async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        let (linger, slow) = (tokio::time::sleep(LINGER), tokio::time::sleep(SLOW));
        tokio::pin!(linger, slow);
        loop {
            let pressing = self.waiting.len() >= CALLS_PER_PIPELINE || slow.is_elapsed();
            let another = self.under_way.len() < EAGER || (pressing && self.under_way.len() < IN_FLIGHT);
            if !self.waiting.is_empty() && another {
                slow.as_mut().reset(tokio::time::Instant::now() + SLOW);
                if self.under_way.is_empty() {
                    // Who is ready to call by now is let to: else the first of many that were woken together would go alone.
                    tokio::task::yield_now().await;
                    self.take_ready(&mut queue);
                }
                self.send();
                continue;
            }
            tokio::select! {
                biased;
                Some(()) = self.under_way.next() => {}
                call = queue.recv(), if self.waiting.len() < CALLS_PER_PIPELINE => match call {
                    Some(call) => {
                        if self.lazy.is_empty() {
                            linger.as_mut().reset(tokio::time::Instant::now() + LINGER);
                        }
                        self.take(call);
                        self.take_ready(&mut queue);
                    }
                    None if self.under_way.is_empty() && self.lazy.is_empty() => return,
                    None if self.under_way.is_empty() => self.send(),
                    None => while self.under_way.next().await.is_some() {},
                },
                () = &mut slow, if !slow.is_elapsed() && !self.waiting.is_empty() => {}
                () = &mut linger, if !self.lazy.is_empty() && self.under_way.is_empty() => self.send(),
            }
        }
    }

    fn take_ready(&mut self, queue: &mut mpsc::Receiver<Call>) {
        while self.waiting.len() < CALLS_PER_PIPELINE
            && let Ok(call) = queue.try_recv()
        {
            self.take(call);
        }
    }

    fn take(&mut self, call: Call) {
        if self.shapes[call.shape].lazy {
            self.lazy.push(call);
        } else {
            self.waiting.push_back(call);
        }
    }

    /// One pipeline, of what waits and of what may wait.
    fn send(&mut self) {
        let mut calls: Vec<Call> = self.waiting.drain(..self.waiting.len().min(CALLS_PER_PIPELINE)).collect();
        calls.append(&mut self.lazy);
        self.under_way.push(Box::pin(run(self.redis.clone(), self.shapes.clone(), calls)));
    }
}

async fn run(redis: Redis, shapes: Arc<Vec<Shape>>, calls: Vec<Call>) {
    // In order of arrival within a script and tenant: groups are few, so a scan finds them.
    let mut groups: Vec<Vec<Call>> = Vec::new();
    for call in calls {
        let alike = |group: &&mut Vec<Call>| {
            group.len() < CALLS_PER_RUN && group[0].shape == call.shape && group[0].tenant == call.tenant
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(call),
            None => groups.push(vec![call]),
        }
    }
    groups.sort_by_key(|group| group[0].shape);
    let runs = groups.iter().map(|group| {
        let shape = &shapes[group[0].shape];
        let changing = shape.changing.as_ref().map(|changing| changing());
        let common = shape.common.iter().chain(&changing).map(String::as_bytes);
        let args = common.chain(group.iter().flat_map(|call| call.args.iter()));
        (&shape.script, shape.script.call(group[0].tenant.as_str(), args))
    });
    match redis.scripts(runs.collect()).await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for group in groups {
                hand_out(&shapes[group[0].shape], group, answers.next().unwrap_or(Ok(Value::Nil)));
            }
        }
        Err(error) => {
            for call in groups.into_iter().flatten() {
                call.end(Err(error.clone()));
            }
        }
    }
}

/// Gives each caller its part of a run's answer.
fn hand_out(shape: &Shape, group: Vec<Call>, answer: Result<Value, redis::RedisError>) {
    let values = match answer {
        Ok(Value::Array(values))
            if shape.answers == 0 || values.len() == shape.leading + shape.answers * group.len() =>
        {
            Ok(values)
        }
        Ok(_) if shape.answers == 0 => Ok(Vec::new()),
        Ok(other) => Err(StoreError::Odd(format!("{other:?}"))),
        Err(error) => Err(error.into()),
    };
    let (leading, mut rest) = match values {
        Ok(mut values) => {
            let rest = values.split_off(shape.leading.min(values.len()));
            (Ok(values), rest.into_iter())
        }
        Err(error) => (Err(error), Vec::new().into_iter()),
    };
    for call in group {
        let part = leading.clone().map(|mut part| {
            part.extend(rest.by_ref().take(shape.answers));
            part
        });
        call.end(part);
    }
}

/// A value that the script writes as text.
pub(crate) fn text(value: Option<&Value>) -> Result<String, StoreError> {
    let odd = || StoreError::Odd(format!("{value:?} where a text should be"));
    match value {
        Some(Value::BulkString(bytes)) => String::from_utf8(bytes.clone()).map_err(|_| odd()),
        Some(Value::SimpleString(text)) => Ok(text.clone()),
        Some(Value::Int(number)) => Ok(number.to_string()),
        _ => Err(odd()),
    }
}

/// A value that the script writes as a number.
pub(crate) fn number<T: std::str::FromStr>(value: Option<&Value>) -> Result<T, StoreError> {
    let text = text(value)?;
    text.parse().map_err(|_| StoreError::Odd(format!("`{text}` where a number should be")))
}
