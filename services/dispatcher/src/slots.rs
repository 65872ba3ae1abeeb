//! Room for attempts: so many here, so many per webhook. The cap over all dispatchers is the claim's to keep; this is what
//! spares a claim that would be refused, and keeps a saturated webhook's work from filling the process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use fanfare_domain::WebhookId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a delivery waits here for its webhook's others.
const PATIENCE: Duration = Duration::from_secs(1);
/// Webhooks remembered before idle ones are forgotten.
const REMEMBERED: usize = 4_096;

/// The room of this process.
pub(crate) struct Slots {
    held: Arc<Semaphore>,
    flying: Arc<Semaphore>,
    default_cap: u32,
    webhooks: Mutex<HashMap<WebhookId, Arc<Room>>>,
}

/// One webhook's room.
struct Room {
    cap: u32,
    free: Arc<Semaphore>,
    waiting: AtomicU32,
    /// Work has waited in vain: what comes is sent on at once, until nothing waits any more.
    saturated: AtomicBool,
}

/// Room for one attempt; given back when dropped.
pub(crate) struct Slot {
    _webhook: OwnedSemaphorePermit,
    _process: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(max_in_flight: usize, default_cap: u32) -> Self {
        Self {
            // As many again may wait for their webhook while as many fly.
            held: Arc::new(Semaphore::new(2 * max_in_flight)),
            flying: Arc::new(Semaphore::new(max_in_flight)),
            default_cap,
            webhooks: Mutex::default(),
        }
    }

    /// Waits until the process has room to hold so many deliveries, in order.
    pub(crate) async fn hold(&self, deliveries: usize, most: usize) -> OwnedSemaphorePermit {
        let permits = u32::try_from(deliveries.clamp(1, 2 * most)).unwrap_or(u32::MAX);
        self.held.clone().acquire_many_owned(permits).await.expect("the semaphore is never closed")
    }

    /// Room for an attempt at `webhook`; `None` where it is saturated.
    pub(crate) async fn take(&self, webhook: &WebhookId, cap: Option<u32>) -> Option<Slot> {
        let room = self.room(webhook, cap.unwrap_or(self.default_cap));
        let own = match room.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => room.wait().await?,
        };
        let process = self.flying.clone().acquire_owned().await.expect("the semaphore is never closed");
        Some(Slot { _webhook: own, _process: process })
    }

    fn room(&self, webhook: &WebhookId, cap: u32) -> Arc<Room> {
        let mut webhooks = self.webhooks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = webhooks.get(webhook).filter(|room| room.cap == cap) {
            return room.clone();
        }
        if webhooks.len() >= REMEMBERED {
            webhooks.retain(|_, room| room.free.available_permits() < room.cap as usize);
        }
        let free = Arc::new(Semaphore::new(cap as usize));
        let room = Arc::new(Room { cap, free, waiting: AtomicU32::new(0), saturated: AtomicBool::new(false) });
        webhooks.insert(webhook.clone(), room.clone());
        room
    }
}

impl Room {
    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        if self.saturated.load(Ordering::Relaxed) && self.waiting.load(Ordering::Relaxed) >= self.cap {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = tokio::time::timeout(PATIENCE, self.free.clone().acquire_owned()).await;
        let left = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
        match permit {
            Ok(permit) => {
                if left == 0 {
                    self.saturated.store(false, Ordering::Relaxed);
                }
                Some(permit.expect("the semaphore is never closed"))
            }
            Err(_) => {
                self.saturated.store(true, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_saturated_webhook_sends_its_work_on_and_costs_the_others_nothing() {
        let slots = Slots::new(8, 2);
        let (bad, good): (WebhookId, WebhookId) =
            ("0000000000000000000000aa".parse().unwrap(), "0000000000000000000000bb".parse().unwrap());
        let hanging = [slots.take(&bad, None).await, slots.take(&bad, None).await];
        assert!(slots.take(&bad, None).await.is_none(), "the third waits in vain");
        let started = tokio::time::Instant::now();
        let (a, b, c) = tokio::join!(slots.take(&bad, None), slots.take(&bad, None), slots.take(&bad, None));
        assert!(a.is_none() && b.is_none() && c.is_none());
        assert!(started.elapsed() <= PATIENCE, "none waits longer than its patience");
        assert!(slots.take(&good, None).await.is_some());
        drop(hanging);
        assert!(slots.take(&bad, None).await.is_some(), "room again");
    }
}
