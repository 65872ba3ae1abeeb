//! The texts of all catalogs that deliveries were ever made by: a delivery's body is made by the text that was in force when
//! its event was matched, however long it is retried and whatever became of the file meanwhile.

use crate::{
    blob,
    redis_link::{Redis, StoreError},
};

/// Every catalog's text by its digest, packed; written once, and never changed.
const CATALOGS: &str = "f:catalogs";

/// Catalogs' texts in Redis.
#[derive(Clone)]
pub struct CatalogTexts {
    redis: Redis,
}

impl CatalogTexts {
    /// Over `redis`.
    pub fn new(redis: &Redis) -> Self {
        Self { redis: redis.clone() }
    }

    /// Keeps a text, unless it is kept already. To be done before its digest is pinned anywhere.
    pub async fn keep(&self, digest: &str, text: &str) -> Result<(), StoreError> {
        let packed = blob::pack(text.as_bytes());
        self.redis.run::<u32>(redis::cmd("HSETNX").arg(CATALOGS).arg(digest).arg(packed)).await.map(drop)
    }

    /// The text of this digest; `None` where it is not kept.
    pub async fn text(&self, digest: &str) -> Result<Option<String>, StoreError> {
        let packed: Option<Vec<u8>> = self.redis.run(redis::cmd("HGET").arg(CATALOGS).arg(digest)).await?;
        let Some(packed) = packed else { return Ok(None) };
        let odd = |_| StoreError::Odd("a kept catalog is no text".to_owned());
        String::from_utf8(blob::unpack(&packed)?).map(Some).map_err(odd)
    }
}
