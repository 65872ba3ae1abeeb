//! The way between the services: AMQP. What is declared, what a message holds, publishing with confirm, consuming with
//! acks. Decides nothing about deliveries; promises that a publish that returns `Ok` is in a queue on disk, and that a
//! message is acked only once its work is settled.
mod ask; // a question over the broker, and its answer
mod connection; // two connections per process, made again when lost
mod consume; // messages in, acks out
mod errand; // a job to go on with: messages that are no batch
mod management; // where the broker's management API is
mod message; // what travels: batches of events with their deliveries
mod metrics; // what is counted of the broker
mod publish; // batches out, confirms in
mod stuck; // tenants whose events are put off
pub mod topology; // exchanges and queues, declared in this one place

pub use ask::{Answers, AskError, Question, ask_channel};
pub use connection::{AmqpSettings, Bus, BusError, Link};
pub use consume::{Message, Settled};
pub use errand::Errand;
pub use management::ManagementSettings;
pub use message::{
    Batch, DeliveryItem, Ended, EventItem, FormError, JobItem, Notice, Probe, ProbeOf, Probed, VERSION, VERSION_HEADER,
    Waiting, Way,
};
pub use publish::{BATCH_ITEMS, PublishError, Publisher, Route};
pub use stuck::{Stuck, Turn};
