//! An attempt as shown (contract.md, Management API). Its body is not stored: it is rendered again, of the event and the
//! shape that was pinned at fan-out.

use std::collections::BTreeMap;

use fanfare_catalog::{Catalog, Catalogs, Rendered};
use fanfare_domain::{header, span::rfc3339, webhook::PayloadForm};
use fanfare_store::{AttemptEntry, CatalogTexts, DeliveryView, EntryForm, StoreError};
use serde::Serialize;
use serde_json::{Map, Value};

/// An attempt in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    number: u32,
    at: String,
    duration_ms: u64,
    error: Option<String>,
    request: Request,
    response: Option<Response>,
}

#[derive(Debug, Serialize)]
struct Request {
    method: String,
    url: String,
    headers: Map<String, Value>,
    /// Null where the event is gone, or the catalog that shaped it.
    body: Option<String>,
}

#[derive(Debug, Serialize)]
struct Response {
    status: u16,
    headers: Map<String, Value>,
    body: String,
}

/// The `number`th attempt of a delivery, whose request was rendered so.
pub(crate) fn of_delivery(
    delivery: &DeliveryView,
    number: u32,
    mut entry: AttemptEntry,
    rendered: Option<&Rendered>,
) -> View {
    if entry.form == EntryForm::Short {
        let shape = rendered.iter().flat_map(|rendered| {
            let content_type = [("content-type".to_owned(), rendered.content_type.clone())];
            rendered.headers.iter().cloned().chain(content_type)
        });
        let told = header::told(&delivery.id.webhook_id_header(), entry.at, number, delivery.first_attempt_ms);
        let told = told.into_iter().map(|(name, value)| (name.to_owned(), value));
        // The webhook's own stand over the shape's, and ours over both.
        let all = shape.chain(entry.headers).chain(told).map(|(name, value)| (name.to_ascii_lowercase(), value));
        entry.headers = all.collect::<BTreeMap<_, _>>().into_iter().collect();
    }
    view(number, entry, rendered.and_then(body))
}

/// The `number`th attempt, whose request had this body.
pub(crate) fn view(number: u32, entry: AttemptEntry, body: Option<&str>) -> View {
    let (answer_headers, answer_body) = (entry.answer_headers, entry.answer_body);
    View {
        number,
        at: rfc3339(entry.at),
        duration_ms: entry.ms,
        error: entry.error,
        request: Request {
            method: entry.method,
            url: entry.url,
            headers: joined(entry.headers),
            body: body.map(str::to_owned),
        },
        response: entry.status.map(|status| Response { status, headers: joined(answer_headers), body: answer_body }),
    }
}

/// What an event's deliveries of this shape are, by a catalog that is loaded here or by one of the past.
pub(crate) async fn request(
    catalogs: &Catalogs,
    texts: &CatalogTexts,
    event: &[u8],
    shape: &str,
) -> Result<Option<Rendered>, StoreError> {
    let Some((digest, form)) = shape.split_once(':') else { return Ok(None) };
    if let Some(catalog) = catalogs.by_digest(digest) {
        return Ok(rendered(catalog, event, form));
    }
    let text = texts.text(digest).await?;
    let catalog = text.and_then(|text| Catalog::parse(&text).ok()).filter(|catalog| catalog.digest() == digest);
    Ok(catalog.and_then(|catalog| rendered(&catalog, event, form)))
}

/// What an event becomes by this catalog, in this form; `None` where it becomes nothing.
pub(crate) fn rendered(catalog: &Catalog, event: &[u8], form: &str) -> Option<Rendered> {
    let form = [PayloadForm::Full, PayloadForm::Identity].into_iter().find(|known| known.as_str() == form)?;
    catalog.render(event, form).ok()
}

/// A body as text.
pub(crate) fn body(rendered: &Rendered) -> Option<&str> {
    std::str::from_utf8(&rendered.body).ok()
}

/// What pins a body: the catalog by its digest, and the payload's form.
pub(crate) fn shape(digest: &str, form: PayloadForm) -> String {
    format!("{digest}:{}", form.as_str())
}

/// Headers by name; the values of one that came several times stand in one text (RFC 9110 5.3).
fn joined(headers: Vec<(String, String)>) -> Map<String, Value> {
    let mut map = Map::new();
    for (name, value) in headers {
        match map.get_mut(&name) {
            Some(Value::String(known)) => {
                known.push_str(", ");
                known.push_str(&value);
            }
            _ => drop(map.insert(name, Value::String(value))),
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry() -> AttemptEntry {
        AttemptEntry {
            form: EntryForm::Whole,
            at: 1_700_000_000_123,
            ms: 18,
            error: None,
            method: "POST".into(),
            url: "https://example.com/?a=1".into(),
            headers: vec![("webhook-id".into(), "x".into())],
            status: Some(503),
            answer_headers: vec![("via".into(), "a".into()), ("server".into(), "s".into()), ("via".into(), "b".into())],
            answer_body: "busy".into(),
        }
    }

    #[test]
    fn an_attempt_is_shown_as_the_contract_says() {
        assert_eq!(
            json!(view(2, entry(), Some("{}"))),
            json!({
                "number": 2, "at": "2023-11-14T22:13:20.123Z", "durationMs": 18, "error": null,
                "request": { "method": "POST", "url": "https://example.com/?a=1", "headers": { "webhook-id": "x" }, "body": "{}" },
                "response": { "status": 503, "headers": { "via": "a, b", "server": "s" }, "body": "busy" },
            })
        );
    }

    #[test]
    fn a_short_entrys_headers_are_told_again_and_what_is_masked_stays_so() {
        let delivery = DeliveryView {
            id: "01K3V7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73_r01K3V7M2Z8Q4R6T1W9X0Y5B3CE".parse().unwrap(),
            event_type: "t".into(),
            state: fanfare_store::State::Delivered,
            attempts: 2,
            created_ms: 1,
            ended_ms: None,
            due_ms: None,
            sending: false,
            reason: None,
            shape: "0123456789ab:full".into(),
            first_attempt_ms: Some(1_699_999_000_999),
        };
        let rendered = Rendered {
            body: b"{}".to_vec(),
            content_type: "application/json".into(),
            headers: vec![("User-Agent".into(), "Fanfare/2".into()), ("X-Team".into(), "catalog".into())],
        };
        let own =
            [("x-team", "***"), ("user-agent", "Fanfare/1"), ("webhook-signature", "v1,s"), ("fanfare-replay", "j")];
        let headers = own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let entry = AttemptEntry { form: EntryForm::Short, headers, ..entry() };
        let shown = json!(of_delivery(&delivery, 2, entry.clone(), Some(&rendered)));
        assert_eq!(
            shown["request"]["headers"],
            json!({
                "content-type": "application/json", "user-agent": "Fanfare/1", "x-team": "***",
                "webhook-id": "01K3V7M2Z8Q4R6T1W9X0Y5B3CD_5ceec43ce1b5b412ba9d0e73", "webhook-timestamp": "1700000000",
                "webhook-signature": "v1,s", "fanfare-attempt": "2", "fanfare-first-attempt": "1699999000", "fanfare-replay": "j",
            })
        );
        let lost = DeliveryView { first_attempt_ms: None, ..delivery };
        let shown = json!(of_delivery(&lost, 2, entry, None));
        assert_eq!(shown["request"]["headers"]["fanfare-first-attempt"], Value::Null, "nobody knows");
        assert_eq!(shown["request"]["headers"]["x-team"], "***");
    }

    #[test]
    fn without_an_answer_there_is_no_response() {
        let failed = AttemptEntry { status: None, error: Some("no answer within 15 s".into()), ..entry() };
        let view = json!(view(1, failed, None));
        assert_eq!((&view["response"], &view["request"]["body"]), (&Value::Null, &Value::Null));
        assert_eq!(view["error"], "no answer within 15 s");
    }

    #[test]
    fn a_body_is_rendered_in_the_form_that_it_was_sent_in() {
        let catalogs = Catalogs::builtin();
        let catalog = catalogs.get("standard").unwrap();
        let event = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-01-15T09:30:00Z","data":{"n":1.50}}"#;
        assert_eq!(
            body(&rendered(catalog, event, "full").unwrap()).unwrap(),
            r#"{"type":"t","timestamp":"2026-01-15T09:30:00Z","data":{"n":1.50}}"#
        );
        for (event, form) in [(&event[..], "x"), (b"", "full")] {
            assert!(rendered(catalog, event, form).is_none(), "{form}");
        }
    }
}
