//! A question over the broker and its answer: how the api has the dispatcher make a request now (ping, test on save).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::sync::{Mutex, oneshot};

use crate::{
    connection::Bus,
    consume::Message,
    publish::{PublishError, Route},
};

/// Answers that this process waits for, by question.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// The answers to this process's questions, over a queue of its own that goes with its connection.
#[derive(Clone)]
pub struct Answers {
    bus: Bus,
    waiting: Waiting,
    queue: Arc<Mutex<Option<String>>>,
}

/// Opens the way for questions.
pub fn ask_channel(bus: &Bus) -> Answers {
    Answers { bus: bus.clone(), waiting: Waiting::default(), queue: Arc::default() }
}

impl Answers {
    /// Puts `question` to whoever consumes `queue` and waits for the answer; `None` where none comes in time.
    pub async fn ask(
        &self,
        queue: &'static str,
        id: &str,
        question: Vec<u8>,
        patience: Duration,
    ) -> Result<Option<Vec<u8>>, PublishError> {
        let reply_to = self.reply_queue().await.ok_or(PublishError::Lost)?;
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().await.insert(id.to_owned(), sender);
        let expiration = patience.as_millis().to_string();
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_correlation_id(id.into())
            .with_reply_to(reply_to.into())
            .with_expiration(expiration.into()); // nobody waits for an answer that comes later
        let answered = match self.bus.publisher().publish_whole(Route::queue(queue), question, properties).await {
            Ok(()) => Ok(tokio::time::timeout(patience, answer).await.ok().and_then(Result::ok)),
            Err(error) => Err(error),
        };
        self.waiting.lock().await.remove(id);
        answered
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
                if let Some(sender) = waiting.lock().await.remove(&id) {
                    let _ = sender.send(answer.data); // the asker may have given up
                }
            }
            *known.lock().await = None; // the connection is lost: the next question makes another
        });
        *queue = Some(name.clone());
        Some(name)
    }
}

impl Bus {
    /// Answers a question that came as `message`. An asker that is gone gets none, and that is no error.
    pub async fn answer(&self, message: &Message, answer: Vec<u8>) -> Result<(), PublishError> {
        let (Some(reply_to), Some(id)) = (message.properties.reply_to(), message.properties.correlation_id()) else {
            return Ok(());
        };
        let properties = BasicProperties::default().with_correlation_id(id.clone());
        match self.publisher().publish_whole(Route::queue(reply_to.to_string()), answer, properties).await {
            Err(PublishError::Unroutable) => Ok(()),
            other => other,
        }
    }
}
