//! Redis: tenants, keys and webhooks, the records that keep deliveries safe, and the log. Each Lua script is a file of its
//! own under `scripts/`, takes lists, and touches the keys of one tenant. Stored values carry a version.
mod batched; // many callers, few round trips
mod behind; // whose newest configuration Redis has lost
mod blob; // an event's bytes, compressed
mod catalogs; // the texts that deliveries were made by
mod config; // what is in force, in memory, at once
mod deliveries; // claim, complete
mod events; // claim an event, decide its matches
mod jobs; // work on many deliveries, in steps
mod life; // which dispatchers live
mod log; // what happened, for people
mod metrics; // what is counted of Redis
mod notices; // one mail an hour per webhook and kind
mod pool; // connections for what is no script
mod redis_link; // connections, scripts, errors
mod seal; // secrets at rest
mod servers; // one server, Sentinel or a cluster, by the URL
mod standing; // how everything stands, for gauges
mod stored; // tenants, webhooks and keys as stored
mod tenants; // what the management API writes

pub use catalogs::CatalogTexts;
pub use config::{Configuration, Grant, KeyOwner, TenantConfig};
pub use deliveries::{Attempted, Claim, ClaimRequest, Deliveries, Limit, Recorded, Verdict};
pub use events::{Acceptance, Events, Matching};
pub use jobs::{Cancelled, Jobs, Look, Open, Released};
pub use life::Life;
pub use log::{
    AttemptEntry, DeliveryDetail, DeliveryFilter, DeliveryView, EntryForm, EventView, HotLog, Log, Page, State,
};
pub use notices::{MailClaim, MailEnd, Notices};
pub use redis_link::{Redis, StoreError, while_away};
pub use seal::{SealError, Sealer};
pub use servers::RedisSettings;
pub use standing::{Standing, TenantStanding};
pub use stored::{Scope, Scopes, StoredKey, StoredSecret, StoredWebhook, Tenant};
pub use tenants::{Acted, Saved, Tenants};
