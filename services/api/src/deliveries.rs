//! What became of deliveries: the list, and one with its attempts.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use fanfare_domain::{DeliveryId, WebhookId, span::rfc3339};
use fanfare_runtime::Problem;
use fanfare_store::{DeliveryDetail, DeliveryView, Log, Page, State as DeliveryState};
use serde::Serialize;

use crate::{
    app::{Api, nothing_here},
    attempt_view,
    auth::{Caller, Read},
    list::{LogPage, delivery_query},
    problem,
    request::At,
};

/// A delivery, as listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    id: String,
    event: String,
    event_type: String,
    webhook: WebhookId,
    status: DeliveryState,
    /// Why it ended or is held, a word.
    reason: Option<String>,
    /// Attempts made.
    attempt_count: u32,
    /// An attempt is under way.
    sending: bool,
    created_at: String,
    ended_at: Option<String>,
    next_attempt_at: Option<String>,
}

pub(crate) fn view(delivery: &DeliveryView) -> View {
    View {
        id: delivery.id.to_string(),
        event: delivery.id.event.to_string(),
        event_type: delivery.event_type.clone(),
        webhook: delivery.id.webhook.clone(),
        status: delivery.state,
        reason: delivery.reason.clone(),
        attempt_count: delivery.attempts,
        sending: delivery.sending,
        created_at: rfc3339(delivery.created_ms),
        ended_at: delivery.ended_ms.map(rfc3339),
        next_attempt_at: delivery.due_ms.map(rfc3339),
    }
}

/// A page of the log, as answered.
#[derive(Debug, Serialize)]
struct Listed {
    deliveries: Vec<View>,
    next: Option<String>,
}

/// A delivery with its attempts.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    delivery: View,
    attempts: Vec<attempt_view::View>,
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller<Read>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (filter, page) = delivery_query(query.as_deref())?;
    let found = api.log.deliveries(caller.tenant(), &filter, page.cursor.as_deref(), page.limit).await;
    let found = found.map_err(problem::store)?;
    // One event's deliveries come all at once.
    let found = if filter.event.is_some() { part(found.items, &page) } else { found };
    Ok(Answer(Listed { deliveries: found.items.iter().map(view).collect(), next: found.next }).into_response())
}

/// A page of what is there as a whole.
fn part<T>(items: Vec<T>, page: &LogPage) -> Page<T> {
    let end = page.skipped().saturating_add(page.limit);
    let next = (items.len() > end).then(|| format!("0-0.0.{end}"));
    Page { items: items.into_iter().skip(page.skipped()).take(page.limit).collect(), next }
}

/// The tenant's delivery of this id.
pub(crate) async fn find<N>(api: &Api, caller: &Caller<N>, id: &str) -> Result<DeliveryDetail, Problem> {
    let id: DeliveryId = id.parse().map_err(|_| nothing_here())?;
    api.log.delivery(caller.tenant(), &id).await.map_err(problem::store)?.ok_or_else(nothing_here)
}

pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller<Read>,
    At(id): At<String>,
) -> Result<Response, Problem> {
    let detail = find(&api, &caller, &id).await?;
    let request = attempt_view::request(&api.catalogs, &api.catalog_texts, &detail.event, &detail.view.shape);
    let request = request.await.map_err(problem::store)?;
    let shown = |(number, entry)| attempt_view::of_delivery(&detail.view, number, entry, request.as_ref());
    let attempts = detail.attempts.into_iter().map(shown).collect();
    Ok(Answer(Whole { delivery: view(&detail.view), attempts }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_delivery_is_shown_in_the_contracts_words() {
        let delivery = DeliveryView {
            id: "01K3V7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73".parse().unwrap(),
            event_type: "order.paid".into(),
            state: DeliveryState::Pending,
            attempts: 2,
            created_ms: 1_700_000_000_000,
            ended_ms: None,
            due_ms: Some(1_700_000_300_000),
            sending: false,
            reason: None,
            shape: "0123456789ab:full".into(),
            first_attempt_ms: None,
        };
        assert_eq!(
            json!(view(&delivery)),
            json!({
                "id": "01K3V7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73", "event": "01K3V7M2Z8Q4R6T1W9X0Y5B3CD",
                "eventType": "order.paid", "webhook": "5ceec43ce1b5b412ba9d0e73", "status": "pending", "reason": null,
                "attemptCount": 2, "sending": false, "createdAt": "2023-11-14T22:13:20.000Z", "endedAt": null,
                "nextAttemptAt": "2023-11-14T22:18:20.000Z",
            })
        );
    }

    #[test]
    fn pages_of_one_events_deliveries_fit_together() {
        let page = |limit, cursor: Option<&str>| LogPage { limit, cursor: cursor.map(str::to_owned) };
        let first = part(vec![1, 2, 3], &page(2, None));
        assert_eq!((first.items, first.next.as_deref()), (vec![1, 2], Some("0-0.0.2")));
        let second = part(vec![1, 2, 3], &page(2, Some("0-0.0.2")));
        assert_eq!((second.items, second.next), (vec![3], None));
    }
}
