//! Errands: messages of our own queues that are no batch of events: a job to go on with, a notice to
//! give. Each travels alone, in the same
//! versioned form as a batch, and comes back after a wait through the same tiers.

use std::time::Duration;

use fanfare_domain::ladder::{Hop, MAX_HOPS, next_hop};
use serde::{Deserialize, Serialize};

use crate::{
    connection::Bus,
    consume::Message,
    message::{JobItem, Notice},
    publish::{PublishError, Route, batch_properties},
    topology,
};

/// What has a queue of its own.
pub trait Errand: Serialize + for<'de> Deserialize<'de> + Sync {
    /// The queue.
    const QUEUE: &'static str;
    /// The routing key that leads from a tier back into it.
    const KEY: &'static str;
}

impl Errand for JobItem {
    const QUEUE: &'static str = topology::JOBS;
    const KEY: &'static str = topology::KEY_JOB;
}

impl Errand for Notice {
    const QUEUE: &'static str = topology::NOTICES;
    const KEY: &'static str = topology::KEY_NOTICE;
}

impl Bus {
    /// Puts an errand into its queue; `Ok` once it is there, on disk.
    pub async fn send<E: Errand>(&self, errand: &E) -> Result<(), PublishError> {
        self.send_by(Route::queue(E::QUEUE), errand).await
    }

    /// The same, again and again until the broker has confirmed.
    pub async fn send_surely<E: Errand>(&self, errand: &E) {
        self.send_by_surely(&Route::queue(E::QUEUE), errand).await;
    }

    /// Puts an errand into a tier from which it comes back no earlier than after `wait`, up to 7 days; returns once that
    /// is confirmed.
    pub async fn send_after<E: Errand>(&self, wait: Duration, errand: &E) {
        let route = match next_hop(wait, MAX_HOPS) {
            Hop::Now => Route::queue(E::QUEUE),
            Hop::Tier { ms, .. } => Route::tier_to(ms, E::KEY),
        };
        self.send_by_surely(&route, errand).await;
    }

    /// Reads a message's errand. What is none is kept in `fanfare.dead` for the operator; `None` then, to be acked.
    pub async fn read_errand<E: Errand>(&self, message: &Message) -> Option<E> {
        self.read_as(message).await
    }

    async fn send_by<E: Errand>(&self, route: Route, errand: &E) -> Result<(), PublishError> {
        let body = serde_json::to_vec(errand).expect("an errand is ids and words");
        self.publisher().publish_whole(route, body, batch_properties()).await
    }

    async fn send_by_surely<E: Errand>(&self, route: &Route, errand: &E) {
        let mut pause = Duration::from_millis(50);
        while let Err(error) = self.send_by(route.clone(), errand).await {
            tracing::warn!(queue = E::QUEUE, %error, "publishing again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}
