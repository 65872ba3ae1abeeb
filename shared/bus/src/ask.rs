//! A question over the broker and its answer: how the api has the dispatcher make a request now (ping, test on save).
//!
//! A question says until when somebody waits for its answer; who finds it later leaves it ([`Message::is_too_late`]). It has
//! no `expiration`: the broker would carry it to `fanfare.dead`, where nobody wants it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    connection::Bus,
    consume::Message,
    message::{VERSION, VERSION_HEADER},
    publish::{PublishError, Route},
};

/// The header that says until when an answer is waited for, in unix milliseconds of the asker's clock.
const UNTIL_HEADER: &str = "x-fanfare-until";

/// Answers that this process waits for, by question.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// The answers to this process's questions, over a queue of its own that goes with its connection.
#[derive(Clone)]
pub struct Answers {
    bus: Bus,
    waiting: Waiting,
    queue: Arc<tokio::sync::Mutex<Option<String>>>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The queue of those who can answer.
    pub queue: &'static str,
    /// No other question has it.
    pub id: String,
    /// What the answerer reads.
    pub body: Vec<u8>,
    /// When it is asked, in unix milliseconds.
    pub now_ms: u64,
    /// How long it is worth an answer: from connecting to the broker to the answer's arrival.
    pub patience: Duration,
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The broker refused it, or went away while it was put.
    #[error("the question was not put: {0}")]
    NotPut(#[from] PublishError),
    /// The broker was away, or took no messages, for as long as anybody would wait.
    #[error("the broker did not take the question in time")]
    NotTaken,
    /// Nobody has answered in time.
    #[error("no answer came in time")]
    NoAnswer,
}

/// Opens the way for questions.
pub fn ask_channel(bus: &Bus) -> Answers {
    Answers { bus: bus.clone(), waiting: Waiting::default(), queue: Arc::default() }
}

impl Answers {
    /// Puts a question to whoever consumes its queue and waits for the answer; never longer than its patience. May be
    /// dropped at any time.
    pub async fn ask(&self, question: Question) -> Result<Vec<u8>, AskError> {
        let deadline = Instant::now() + question.patience;
        let (sender, answer) = oneshot::channel();
        let _expected = Expected::new(&self.waiting, &question.id, sender);
        match tokio::time::timeout_at(deadline, self.put(question)).await {
            Ok(put) => put?,
            Err(_) => return Err(AskError::NotTaken),
        }
        let answered = tokio::time::timeout_at(deadline, answer).await;
        answered.ok().and_then(Result::ok).ok_or(AskError::NoAnswer)
    }

    async fn put(&self, question: Question) -> Result<(), PublishError> {
        let reply_to = self.reply_queue().await.ok_or(PublishError::Lost)?;
        let until_ms = question.now_ms.saturating_add(u64::try_from(question.patience.as_millis()).unwrap_or(u64::MAX));
        let mut headers = FieldTable::default();
        headers.insert(VERSION_HEADER.into(), AMQPValue::LongInt(VERSION));
        headers.insert(UNTIL_HEADER.into(), AMQPValue::LongLongInt(i64::try_from(until_ms).unwrap_or(i64::MAX)));
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_correlation_id(question.id.into())
            .with_reply_to(reply_to.into())
            .with_headers(headers);
        self.bus.publisher().publish_whole(Route::queue(question.queue), question.body, properties).await
    }

    /// The queue of answers, declared and consumed where it is not yet, or no more.
    async fn reply_queue(&self) -> Option<String> {
        let mut queue = self.queue.lock().await;
        if let Some(name) = queue.as_ref() {
            return Some(name.clone());
        }
        let channel = self.bus.consuming_channel().await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let name = channel.queue_declare("".into(), options, FieldTable::default()).await.ok()?.name().to_string();
        let consume = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut answers =
            channel.basic_consume(name.as_str().into(), "".into(), consume, FieldTable::default()).await.ok()?;
        let (waiting, known) = (self.waiting.clone(), self.queue.clone());
        tokio::spawn(async move {
            let _channel = channel; // closed when its last handle goes
            while let Some(Ok(answer)) = answers.next().await {
                let id = answer.properties.correlation_id().as_ref().map(ToString::to_string).unwrap_or_default();
                let asker = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(sender) = asker {
                    let _ = sender.send(answer.data); // the asker may have given up
                }
            }
            *known.lock().await = None; // the connection is lost: the next question makes another
        });
        *queue = Some(name.clone());
        Some(name)
    }
}

/// An answer that somebody waits for, until he does no more.
struct Expected<'a> {
    waiting: &'a Waiting,
    id: String,
}

impl<'a> Expected<'a> {
    fn new(waiting: &'a Waiting, id: &str, sender: oneshot::Sender<Vec<u8>>) -> Self {
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        Self { waiting, id: id.to_owned() }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Message {
    /// Whether this is a question whose answer nobody waits for any more at `now_ms` (unix milliseconds).
    pub fn is_too_late(&self, now_ms: u64) -> bool {
        let headers = self.properties.headers().as_ref();
        match headers.and_then(|headers| headers.inner().get(UNTIL_HEADER)) {
            Some(AMQPValue::LongLongInt(until_ms)) => u64::try_from(*until_ms).is_ok_and(|until_ms| until_ms < now_ms),
            _ => false,
        }
    }
}

impl Bus {
    /// Answers a question that came as `message`. An asker that is gone gets none, and that is no error.
    pub async fn answer(&self, message: &Message, answer: Vec<u8>) -> Result<(), PublishError> {
        let (Some(reply_to), Some(id)) = (message.properties.reply_to(), message.properties.correlation_id()) else {
            return Ok(());
        };
        let mut headers = FieldTable::default();
        headers.insert(VERSION_HEADER.into(), AMQPValue::LongInt(VERSION));
        let properties = BasicProperties::default().with_correlation_id(id.clone()).with_headers(headers);
        match self.publisher().publish_whole(Route::queue(reply_to.to_string()), answer, properties).await {
            Err(PublishError::Unroutable) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(until_ms: Option<i64>) -> Message {
        let mut headers = FieldTable::default();
        if let Some(until_ms) = until_ms {
            headers.insert(UNTIL_HEADER.into(), AMQPValue::LongLongInt(until_ms));
        }
        let properties = BasicProperties::default().with_headers(headers);
        let queue = std::sync::Arc::new(crate::metrics::METRICS.of_queue(crate::topology::PROBES));
        let (body, exchange, routing_key) = (Vec::new(), String::new(), String::new());
        Message { body, redelivered: false, exchange, routing_key, properties, queue }
    }

    #[test]
    fn a_question_is_worth_an_answer_until_its_asker_gives_up() {
        for (until_ms, now_ms, too_late) in [
            (Some(1_000), 999, false),
            (Some(1_000), 1_000, false),
            (Some(1_000), 1_001, true),
            (None, u64::MAX, false),
        ] {
            assert_eq!(question(until_ms).is_too_late(now_ms), too_late, "{until_ms:?} at {now_ms}");
        }
    }

    #[test]
    fn who_gives_up_waiting_is_forgotten() {
        let waiting = Waiting::default();
        let (sender, _answer) = oneshot::channel();
        let expected = Expected::new(&waiting, "a", sender);
        assert_eq!(waiting.lock().unwrap().len(), 1);
        drop(expected);
        assert!(waiting.lock().unwrap().is_empty());
    }
}
