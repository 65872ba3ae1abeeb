//! What became of events, those that nobody wanted, too.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json as Answer,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use fanfare_domain::{EventId, span::rfc3339};
use fanfare_runtime::Problem;
use fanfare_store::{EventView, Log, State as DeliveryState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    app::{Api, nothing_here},
    auth::{Caller, Read},
    deliveries,
    list::LogPage,
    problem,
    request::At,
};

/// An event, as listed. Its own attributes are null where it is gone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    /// Fanfare's own id of it, as in the answer to its publisher.
    event: EventId,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    subject: Option<String>,
    time: Option<String>,
    accepted_at: String,
    /// Its webhooks are found: without any, nobody wanted it.
    fanned_out: bool,
    /// Its deliveries, by how they stand.
    delivery_counts: BTreeMap<&'static str, usize>,
}

/// A page of the log, as answered.
#[derive(Debug, Serialize)]
struct Listed {
    events: Vec<View>,
    next: Option<String>,
}

/// An event with its deliveries, and as it was published.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'e> {
    #[serde(flatten)]
    event: View,
    deliveries: Vec<deliveries::View>,
    cloud_event: Option<&'e RawValue>,
}

fn view(event: &EventView) -> View {
    #[derive(Default, Deserialize)]
    struct Attributes {
        id: Option<String>,
        source: Option<String>,
        subject: Option<String>,
        time: Option<String>,
    }
    let Attributes { id, source, subject, time } = serde_json::from_slice(&event.json).unwrap_or_default();
    let mut delivery_counts = BTreeMap::new();
    for delivery in &event.deliveries {
        *delivery_counts.entry(name(delivery.state)).or_default() += 1;
    }
    View {
        event: event.id,
        id,
        source,
        kind: event.kind.clone(),
        subject,
        time,
        accepted_at: rfc3339(event.accepted_ms),
        fanned_out: event.fanned_out,
        delivery_counts,
    }
}

fn name(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => "pending",
        DeliveryState::Held => "held",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Failed => "failed",
        DeliveryState::Cancelled => "cancelled",
    }
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller<Read>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let page = LogPage::parse(query.as_deref())?;
    let found = api.log.events(caller.tenant(), page.cursor.as_deref(), page.limit).await.map_err(problem::store)?;
    Ok(Answer(Listed { events: found.items.iter().map(view).collect(), next: found.next }).into_response())
}

/// The tenant's event of this id.
pub(crate) async fn find(api: &Api, caller: &Caller<Read>, id: &str) -> Result<EventView, Problem> {
    let id: EventId = id.parse().map_err(|_| nothing_here())?;
    api.log.event(caller.tenant(), id).await.map_err(problem::store)?.ok_or_else(nothing_here)
}

pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller<Read>,
    At(id): At<String>,
) -> Result<Response, Problem> {
    let event = find(&api, &caller, &id).await?;
    let deliveries = event.deliveries.iter().map(deliveries::view).collect();
    // As the bytes that were published: numbers are shown as they were written.
    let cloud_event = serde_json::from_slice(&event.json).ok();
    Ok(Answer(Whole { event: view(&event), deliveries, cloud_event }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_shown_with_what_became_of_it() {
        let json = br#"{"specversion":"1.0","id":"7","source":"/shop","type":"order.paid","time":"2026-01-15T09:30:00Z","data":{"total":1.50}}"#;
        let event = EventView {
            id: "01K3V7M2Z8Q4R6T1W9X0Y5B3CD".parse().unwrap(),
            kind: "order.paid".into(),
            accepted_ms: 1_700_000_000_000,
            json: json.to_vec(),
            fanned_out: true,
            deliveries: Vec::new(),
        };
        let whole =
            Whole { event: view(&event), deliveries: Vec::new(), cloud_event: serde_json::from_slice(json).ok() };
        let text = serde_json::to_string(&whole).unwrap();
        assert!(text.contains(r#""total":1.50"#), "{text}");
        assert_eq!(
            json!(view(&event)),
            json!({
                "event": "01K3V7M2Z8Q4R6T1W9X0Y5B3CD", "id": "7", "source": "/shop", "type": "order.paid", "subject": null,
                "time": "2026-01-15T09:30:00Z", "acceptedAt": "2023-11-14T22:13:20.000Z", "fannedOut": true, "deliveryCounts": {},
            })
        );
        let gone = EventView { json: Vec::new(), ..event };
        assert_eq!((view(&gone).id, view(&gone).kind.as_str()), (None, "order.paid"));
    }
}
