//! What shapes a body: the catalog's text that was in force when the event was matched, and the payload form. Loaded here as a
//! rule; a text of the past is read from Redis, never replaced by today's.

use std::{collections::HashMap, sync::Arc};

use fanfare_catalog::{Catalog, Catalogs};
use fanfare_domain::webhook::PayloadForm;
use fanfare_store::{CatalogTexts, StoreError, while_away};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use tokio::sync::Mutex;

use crate::{send::Payload, webhooks::header};

/// Catalogs of the past that are kept compiled; beyond, all are forgotten at once.
const PAST: usize = 64;

/// Why there is no catalog to render by. An operator has something to mend: until then the delivery waits.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCatalog {
    #[error("the catalog of digest `{0}` is neither loaded here nor kept in Redis (`f:catalogs`): put its file back")]
    Gone(String),
    #[error("the catalog of digest `{digest}` cannot be read by this version: {why}")]
    Wrong { digest: String, why: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All catalogs that deliveries were made by.
pub(crate) struct Shapes {
    catalogs: Catalogs,
    texts: CatalogTexts,
    past: Mutex<HashMap<String, Arc<Catalog>>>,
}

impl Shapes {
    pub(crate) fn new(catalogs: Catalogs, texts: CatalogTexts) -> Self {
        Self { catalogs, texts, past: Mutex::default() }
    }

    /// The catalog of a shape, `<catalog digest>:<payload form>`.
    pub(crate) async fn catalog(&self, shape: &str) -> Result<Arc<Catalog>, NoCatalog> {
        let (digest, _) = parts(shape);
        if let Some(catalog) = self.catalogs.by_digest(digest) {
            return Ok(catalog.clone());
        }
        let mut past = self.past.lock().await; // one reads and compiles for all
        if let Some(catalog) = past.get(digest) {
            return Ok(catalog.clone());
        }
        let text = while_away("reading a catalog of the past", || self.texts.text(digest)).await?;
        let text = text.ok_or_else(|| NoCatalog::Gone(digest.to_owned()))?;
        let wrong = |why: String| NoCatalog::Wrong { digest: digest.to_owned(), why };
        let catalog = Arc::new(Catalog::parse(&text).map_err(|error| wrong(error.to_string()))?);
        if catalog.digest() != digest {
            return Err(wrong("its text is another's".to_owned()));
        }
        if past.len() >= PAST {
            past.clear();
        }
        past.insert(digest.to_owned(), catalog.clone());
        Ok(catalog)
    }
}

fn parts(shape: &str) -> (&str, PayloadForm) {
    let (digest, form) = shape.split_once(':').unwrap_or((shape, "full"));
    (digest, if form == PayloadForm::Identity.as_str() { PayloadForm::Identity } else { PayloadForm::Full })
}

/// The request's body and headers that an event becomes under a shape of this catalog; the reason where it becomes none.
pub(crate) fn render(catalog: &Catalog, shape: &str, event: &[u8]) -> Result<Payload, String> {
    let (_, form) = parts(shape);
    let rendered = catalog.render(event, form).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::with_capacity(16);
    let content_type = (CONTENT_TYPE.as_str(), rendered.content_type.as_str());
    for (name, value) in
        rendered.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain([content_type])
    {
        let (name, value) = header(name, value).ok_or_else(|| format!("the catalog's header `{name}` is none"))?;
        headers.insert(name, value);
    }
    Ok(Payload { body: rendered.body.into(), headers })
}
