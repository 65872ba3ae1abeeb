//! The rules of delivery: what an event is, what matches, where deliveries may go, when to retry, when to disable.
//! No I/O, no clock, no chance.
//!
//! Start at [`next_step`]: it decides the fate of a delivery.
pub mod event; // a CloudEvent, from bytes to what we keep
mod field; // what is wrong with a field of what somebody sent
pub mod header; // what Fanfare's own headers are called, and say
mod id; // TenantId, EventId, WebhookId, DeliveryId, JobId: parsed once; derived where a step may repeat
pub mod job; // work on many deliveries: what begins it, how fast it goes
pub mod ladder; // the fixed delays that every wait is made of
pub mod notice; // what is told when something goes wrong
pub mod pattern; // what narrows a webhook: event patterns
mod retry; // what follows an attempt
pub mod signature; // Standard Webhooks
pub mod span; // durations and instants as text
mod target; // where deliveries may go
pub mod webhook; // a tenant's subscription, from what its tenant may write to what we keep

pub use event::Event;
pub use field::FieldError;
pub use id::{DeliveryId, EventId, IdError, JobId, TenantId, WebhookId, hex};
pub use pattern::{Part, Pattern, PatternError};
pub use retry::{
    Answer, Chance, DeliveryPolicy, DisableReason, Failure, NextStep, Outcome, RETRY_AFTER_MAX, next_step, outcome,
    retry_after,
};
pub use span::Span;
pub use target::{Target, TargetError, TargetRules};
pub use webhook::Webhook;
