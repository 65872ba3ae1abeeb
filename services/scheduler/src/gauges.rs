//! Gauges of how everything stands, shown by one scheduler at a time (operations.md, Metrics): who asks for them takes the
//! largest of all schedulers. Read every few seconds, in bounded steps.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use fanfare_bus::{Bus, topology};
use fanfare_domain::TenantId;
use fanfare_metrics::{Gauge, Gauges, OTHER, TenantGauges, Tenants, gauges, seconds, tenant_gauges};
use fanfare_store::{Configuration, Standing, StoreError, TenantStanding};
use tokio_util::sync::CancellationToken;

use crate::management::Management;

/// How often all is read.
const EVERY: Duration = Duration::from_secs(10);
/// How long another waits before it takes over.
const LEASE: Duration = Duration::from_secs(30);
/// Tenants that are read anew each time; of the others stands what was read before.
const TENANTS_AT_ONCE: usize = 500;

const STATES: [[&str; 1]; 6] = [["created"], ["pending"], ["held"], ["delivered"], ["failed"], ["cancelled"]];
const QUEUES: [[&str; 1]; 11] = [
    [topology::INGEST],
    [topology::REJECTED],
    [topology::EVENTS],
    [topology::DELIVERIES],
    [topology::OUTCOMES],
    [topology::DUE],
    [topology::JOBS],
    [topology::NOTICES],
    [topology::PROBES],
    [topology::DEAD],
    ["fanfare.tier"],
];

/// The queues that are bounded in bytes.
const KEEPSAKES: [[&str; 1]; 2] = [[topology::DEAD], [topology::REJECTED]];

/// The gauges, and what they are read from.
pub(crate) struct Standings {
    pub(crate) bus: Bus,
    /// Where it is to be asked.
    pub(crate) management: Option<Management>,
    pub(crate) configuration: Configuration,
    pub(crate) standing: Standing,
    pub(crate) shown: Shown,
}

/// The gauges.
pub(crate) struct Shown {
    tenants: Tenants,
    ledger: TenantGauges<1>,
    imbalance: Gauge,
    pending: TenantGauges<1>,
    unfanned: Gauge,
    depth: Gauges<1>,
    bytes: Gauges<1>,
    webhooks: Gauges<1>,
    jobs: Gauges<2>,
}

impl Shown {
    pub(crate) fn declare(tenants: Tenants) -> Self {
        let limit = gauges(
            "fanfare_queue_limit_bytes",
            "Bytes that a queue may hold; then it takes no more.",
            ["queue"],
            KEEPSAKES,
        );
        KEEPSAKES.iter().for_each(|queue| limit.set(*queue, topology::KEEPSAKE_MAX_BYTES as f64));
        Self {
            ledger: tenant_gauges(
                "fanfare_ledger_deliveries",
                "Deliveries by state, as the tenants' ledgers count them; `created` are all that were ever made.",
                ["state"],
                STATES,
                &tenants,
            ),
            imbalance: seconds(
                "fanfare_ledger_imbalance",
                "Deliveries that have no state, and states that have no delivery, summed over all tenants; 0 is right.",
            ),
            pending: tenant_gauges(
                "fanfare_oldest_pending_seconds",
                "Age of the oldest waiting delivery by what keeps it: Fanfare alone (`due`), the time of its retry, a limit of its webhook, or that its webhook is off (`held`).",
                ["reason"],
                [["due"], ["retry"], ["limit"], ["held"]],
                &tenants,
            ),
            unfanned: seconds(
                "fanfare_oldest_unfanned_seconds",
                "Age of the oldest event that is accepted and not fanned out; 0 where there is none.",
            ),
            depth: gauges(
                "fanfare_queue_depth",
                "Messages ready in a queue; the queues of events count as one, and so do the tiers.",
                ["queue"],
                QUEUES,
            ),
            bytes: gauges(
                "fanfare_queue_bytes",
                "Bytes ready in a queue that may hold so many at most; there where `amqp.management_url` is set and answers.",
                ["queue"],
                [],
            ),
            webhooks: gauges(
                "fanfare_webhooks",
                "Webhooks by state: active, switched off by their tenant, or disabled by Fanfare.",
                ["state"],
                [["active"], ["off"], ["disabled"]],
            ),
            jobs: gauges(
                "fanfare_jobs",
                "Jobs that are not over yet, by kind.",
                ["kind", "state"],
                [["resume", "open"], ["cancel", "open"]],
            ),
            tenants,
        }
    }

    /// All at 0: another shows them.
    fn rest(&self) {
        self.show(&HashMap::new());
        QUEUES.iter().for_each(|queue| self.depth.set(*queue, 0.0));
        KEEPSAKES.iter().for_each(|queue| self.bytes.forget(*queue));
        self.show_webhooks([0, 0, 0]);
        self.show_jobs(&[]);
    }

    fn show(&self, known: &HashMap<TenantId, TenantStanding>) {
        self.imbalance.set(known.values().map(|of| of.imbalance().abs()).sum::<i64>() as f64);
        self.unfanned.set(known.values().map(|of| of.unfanned).max().unwrap_or_default().as_secs_f64());
        let there: HashSet<&str> = known.keys().map(TenantId::as_str).collect();
        for gone in self.tenants.keep(|tenant| there.contains(tenant)) {
            self.ledger.forget(&gone);
            self.pending.forget(&gone);
        }
        let mut shown: HashMap<&str, TenantStanding> = HashMap::from([(OTHER, TenantStanding::default())]);
        for (id, standing) in known {
            shown.entry(self.tenants.value(id.as_str())).or_default().add(standing);
        }
        for (tenant, of) in shown {
            let count = |state: &str, count: i64| self.ledger.set(tenant, [state], count as f64);
            count("created", of.created);
            count("pending", of.pending);
            count("held", of.held);
            count("delivered", of.delivered);
            count("failed", of.failed);
            count("cancelled", of.cancelled);
            let oldest = |reason: &str, age: Duration| self.pending.set(tenant, [reason], age.as_secs_f64());
            oldest("due", of.due);
            oldest("retry", of.retry);
            oldest("limit", of.limit);
            oldest("held", of.oldest_held);
        }
    }

    fn show_webhooks(&self, [active, off, disabled]: [u32; 3]) {
        self.webhooks.set(["active"], f64::from(active));
        self.webhooks.set(["off"], f64::from(off));
        self.webhooks.set(["disabled"], f64::from(disabled));
    }

    fn show_jobs(&self, kinds: &[String]) {
        for kind in ["resume", "cancel"] {
            self.jobs.set([kind, "open"], kinds.iter().filter(|known| *known == kind).count() as f64);
        }
    }

    async fn read_bytes(&self, management: &Management) {
        for queue in KEEPSAKES {
            match management.ready_bytes(queue[0]).await {
                Ok(Some(bytes)) => self.bytes.set(queue, bytes as f64),
                Ok(None) => self.bytes.forget(queue),
                Err(error) => {
                    self.bytes.forget(queue);
                    tracing::warn!(queue = queue[0], error = format!("{error:#}"), "how full a queue is is not known");
                }
            }
        }
    }
}

impl Standings {
    /// Reads and shows until `stop`, while no other scheduler does.
    pub(crate) async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (mut known, mut next) = (HashMap::new(), 0);
        while !stop.is_cancelled() {
            match self.standing.leads(LEASE).await {
                Ok(true) => self.read(&mut known, &mut next).await,
                Ok(false) => {
                    known.clear();
                    self.shown.rest();
                }
                Err(error) => tracing::warn!(%error, "how everything stands is not known"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        Ok(())
    }

    async fn read(&self, known: &mut HashMap<TenantId, TenantStanding>, next: &mut usize) {
        let tenants = self.configuration.tenants();
        known.retain(|id, _| self.configuration.tenant(id).is_some());
        for at in 0..tenants.len().min(TENANTS_AT_ONCE) {
            let id = &tenants[(*next + at) % tenants.len()].tenant.id;
            match self.standing.of(id).await {
                Ok(standing) => drop(known.insert(id.clone(), standing)),
                Err(error @ StoreError::Away(_)) => return tracing::warn!(%error, "how everything stands is not known"),
                // What is wrong with one hides no other.
                Err(error) => {
                    tracing::warn!(tenant = %id, %error, "how a tenant stands is not known");
                    known.remove(id);
                }
            }
        }
        *next = next.wrapping_add(TENANTS_AT_ONCE);
        self.shown.show(known);
        let mut webhooks = [0; 3];
        for stored in tenants.iter().flat_map(|config| config.webhooks.values()) {
            let webhook = &stored.webhook;
            webhooks[if webhook.disabled.is_some() { 2 } else { usize::from(!webhook.active) }] += 1;
        }
        self.shown.show_webhooks(webhooks);
        match self.standing.open_jobs().await {
            Ok(kinds) => self.shown.show_jobs(&kinds),
            Err(error) => tracing::warn!(%error, "how many jobs are open is not known"),
        }
        if let Some(depths) = self.bus.depths().await {
            for [queue] in QUEUES {
                let of =
                    |name: &str| name == queue || name.strip_prefix(queue).is_some_and(|rest| rest.starts_with('.'));
                let depth: u32 = depths.iter().filter(|(name, _)| of(name)).map(|(_, ready)| *ready).sum();
                self.shown.depth.set([queue], f64::from(depth));
            }
        }
        if let Some(management) = &self.management {
            self.shown.read_bytes(management).await;
        }
    }
}
