//! Ping: an example of what a webhook would get, sent now.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State,
    response::{IntoResponse, Response},
};
use fanfare_bus::ProbeOf;
use fanfare_runtime::Problem;

use crate::{
    app::Api,
    attempt_view,
    auth::Manage,
    examples,
    probe::{self, Asked},
    request::{At, MaybeJson, text},
    webhooks::{Webhooks, find},
};

pub(crate) async fn send(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<Manage>,
    At(id): At<String>,
    MaybeJson(mut body): MaybeJson,
) -> Result<Response, Problem> {
    let webhook = &find(&caller.config, &id)?.webhook;
    let kind = body.optional("eventType", text(255));
    body.finish()?;
    let example = match &kind {
        Some(kind) => examples::of_type(&caller.catalog, kind)?,
        None => {
            let trigger = webhook.triggers.first().map_or("", String::as_str);
            examples::of_trigger(&caller.catalog, trigger).unwrap_or_else(|| examples::made_up(trigger))
        }
    };
    let of = ProbeOf::Stored { revision: webhook.revision };
    let Asked { entry, body } = probe::ask(&api, &caller, webhook, of, example).await?;
    Ok(Answer(attempt_view::view(1, entry, body.as_deref())).into_response())
}
