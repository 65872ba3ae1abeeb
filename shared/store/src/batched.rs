//! Calls of one script by many callers, gathered: what comes while earlier calls are under way goes out together, one call
//! per tenant, pipelined. One by one they cost ten times as much (delivery.md, Redis, state).

use std::{collections::VecDeque, sync::Arc};

use fanfare_domain::TenantId;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::Value;
use tokio::sync::{mpsc, oneshot};

use crate::redis_link::{Redis, Script, StoreError};

/// Pipelines under way before further calls wait to be gathered.
const EAGER: usize = 1;
/// Pipelines under way at most.
const IN_FLIGHT: usize = 8;
/// Calls in one run of a script: what Redis does in well under a millisecond.
const CALLS_PER_RUN: usize = 64;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 256;
/// Calls that callers may have handed over.
const WAITING: usize = 4_096;

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
}

struct Call {
    tenant: TenantId,
    args: Vec<Vec<u8>>,
    done: oneshot::Sender<Result<Vec<Value>, StoreError>>,
}

/// The one way to call a script from the hot path.
#[derive(Clone)]
pub(crate) struct Batched {
    calls: mpsc::Sender<Call>,
}

impl Batched {
    pub(crate) fn start(redis: Redis, shape: Shape) -> Self {
        let (calls, queue) = mpsc::channel(WAITING);
        let gatherer =
            Gatherer { redis, shape: Arc::new(shape), waiting: VecDeque::new(), under_way: FuturesUnordered::new() };
        tokio::spawn(gatherer.run(queue));
        Self { calls }
    }

    /// The leading values and those of this call.
    pub(crate) async fn call(&self, tenant: &TenantId, args: Vec<Vec<u8>>) -> Result<Vec<Value>, StoreError> {
        let (done, answer) = oneshot::channel();
        let gone = || StoreError::Away("the process is ending".to_owned());
        self.calls.send(Call { tenant: tenant.clone(), args, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

struct Gatherer {
    redis: Redis,
    shape: Arc<Shape>,
    waiting: VecDeque<Call>,
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Gatherer {
    async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        loop {
            let full = self.waiting.len() >= CALLS_PER_RUN;
            if !self.waiting.is_empty() && (self.under_way.len() < EAGER || (full && self.under_way.len() < IN_FLIGHT))
            {
                let calls = self.waiting.drain(..self.waiting.len().min(CALLS_PER_PIPELINE)).collect();
                self.under_way.push(Box::pin(run(self.redis.clone(), self.shape.clone(), calls)));
                continue;
            }
            tokio::select! {
                biased;
                Some(()) = self.under_way.next() => {}
                call = queue.recv(), if self.waiting.len() < CALLS_PER_PIPELINE => match call {
                    Some(call) => {
                        self.waiting.push_back(call);
                        while self.waiting.len() < CALLS_PER_PIPELINE && let Ok(call) = queue.try_recv() {
                            self.waiting.push_back(call);
                        }
                    }
                    None if self.under_way.is_empty() => return,
                    None => while self.under_way.next().await.is_some() {},
                },
            }
        }
    }
}

async fn run(redis: Redis, shape: Arc<Shape>, calls: Vec<Call>) {
    // In order of arrival within a tenant: groups are few, so a scan finds them.
    let mut groups: Vec<Vec<Call>> = Vec::new();
    for call in calls {
        match groups.iter_mut().find(|group| group.len() < CALLS_PER_RUN && group[0].tenant == call.tenant) {
            Some(group) => group.push(call),
            None => groups.push(vec![call]),
        }
    }
    let changing = shape.changing.as_ref().map(|changing| changing());
    let call = |group: &Vec<Call>| {
        let common = shape.common.iter().chain(&changing).map(String::as_bytes);
        let args = common.chain(group.iter().flat_map(|call| call.args.iter().map(Vec::as_slice)));
        shape.script.call(group[0].tenant.as_str(), args)
    };
    let runs: Vec<redis::Cmd> = groups.iter().map(call).collect();
    match redis.scripts(&shape.script, runs).await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for group in groups {
                hand_out(&shape, group, answers.next().unwrap_or(Ok(Value::Nil)));
            }
        }
        Err(error) => {
            for call in groups.into_iter().flatten() {
                let _ = call.done.send(Err(error.clone())); // the caller may be gone
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
        let _ = call.done.send(part); // the caller may be gone
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
