//! While the broker takes no publishes, failures wait here for theirs, unacked. Further consumers then take what may succeed,
//! up to a bound: a success needs no publish, and an emptier queue is what the broker waits for.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fanfare_bus::{Bus, Link, Message, Settled};
use fanfare_metrics::IntGauge;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

/// Further consumers at most; each takes as many messages as the first.
const CONSUMERS: usize = 3;
/// How often it is looked whether one more is needed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Deliveries that are done here but for the publish of what follows.
pub(crate) struct Passing {
    count: AtomicUsize,
    shown: IntGauge,
}

/// One of them, for as long as it lives.
pub(crate) struct Passed<'p>(&'p Passing);

impl Passing {
    pub(crate) fn new(shown: IntGauge) -> Self {
        Self { count: AtomicUsize::new(0), shown }
    }

    pub(crate) fn one(&self) -> Passed<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shown.inc();
        Passed(self)
    }

    /// Whether so many consumers of `prefetch` messages are filled with what cannot be passed on.
    fn fills(&self, consumers: usize, prefetch: u16) -> bool {
        self.count.load(Ordering::Relaxed) * 4 >= consumers * usize::from(prefetch) * 3
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.shown.dec();
    }
}

/// Consumes `queue` until `stop`, and with further consumers while failures that cannot be published fill the first.
pub(crate) async fn consume<F, W>(
    bus: &Bus,
    queue: &str,
    prefetch: u16,
    passing: &Passing,
    stop: &CancellationToken,
    work: F,
) where
    F: Fn(Message) -> W + Clone,
    W: Future<Output = Settled> + Send + 'static,
{
    let relieved = async {
        let mut link = bus.link();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                blocked = link.wait_for(|link| *link != Link::Up) => if blocked.is_err() { return },
            }
            let up = stop.child_token();
            let mut further = FuturesUnordered::new();
            while *link.borrow() != Link::Up && !stop.is_cancelled() {
                if further.len() < CONSUMERS && passing.fills(1 + further.len(), prefetch) {
                    further.push(bus.consume(queue, prefetch, &up, work.clone()));
                    tracing::warn!(
                        further = further.len(),
                        "failures wait for a broker that takes no publishes: consuming further"
                    );
                    if further.len() == CONSUMERS {
                        tracing::error!(
                            "when failures fill these too, deliveries stand until the broker takes publishes again"
                        );
                    }
                }
                tokio::select! {
                    Some(()) = further.next() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            up.cancel();
            while further.next().await.is_some() {}
        }
    };
    tokio::join!(bus.consume(queue, prefetch, stop, work.clone()), relieved);
}
