//! Fanfare on this machine: a private broker and Redis, the five services, a receiver that records and misbehaves, a
//! client. For `make run`, the black-box tests and the benchmark. Everything started here ends with its [`Sandbox`],
//! and with the process that made it, even when that one is killed.
//!
//! Start at [`Sandbox`], then [`Broker::start`], [`Redis::start`], [`Services::start`]. In reading order:
//! - `sandbox`, `guard`, `process`, `ports`: what is started together ends together; one child; free ports
//! - `root`: where the servers' programs are: this machine, or another Debian in a folder
//! - `broker`, `redis`, `container`: the servers, installed or by Docker
//! - `service`: the five binaries
//! - `receiver`, `signature`: records each request and answers as told; checks without Fanfare's own code
//! - `client`, `publisher`: the management API and publishing over HTTP; publishing over AMQP
mod broker;
mod client;
mod container;
mod guard;
mod ports;
mod process;
mod publisher;
mod receiver;
mod redis;
mod root;
mod sandbox;
mod service;
mod signature;

pub use broker::{Broker, QueueDepth};
pub use client::{Answered, Client, Event, EventType, Webhook};
pub use container::Container;
pub use ports::{Holder, free_port, free_ports, holder_of};
pub use process::{Process, Usage};
pub use publisher::Publisher;
pub use receiver::{Answer, Receiver, Recorded};
pub use redis::{PRIMARY, Redis};
pub use sandbox::Sandbox;
pub use service::{Binaries, Instance, Service, Services, Settings, settings};
pub use signature::{BadSignature, sign, verify};
