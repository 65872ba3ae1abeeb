//! Catalogs: one provider's event types, triggers, wire format and delivery policy, as data.
//!
//! Start at [`Catalogs`]: the catalogs that a process knows. A [`Catalog`] judges an event ([`Catalog::validate`]) and
//! makes the request that a receiver gets of it ([`Catalog::render`]).
mod builtin; // the catalogs that come with Fanfare, and the operator's folder
mod catalog; // one catalog, compiled
mod format; // its file
mod functions; // what a program can call beside jq's own functions
mod json; // JSON as templates read and write it
mod language; // what a program may say
mod operational; // what Fanfare itself tells tenants
mod program; // a jq program, compiled
mod render; // an event becomes a request
mod schema; // an event judged by JSON Schema
mod template; // a body or header made of an event: a program, where it does more than place things

pub use builtin::Catalogs;
pub use catalog::{Catalog, CatalogError, EventType, Example, SecretForm, Trigger, TriggerRule};
pub use render::{RenderError, Rendered};
