//! The management API under a catalog's own name, fields and secrets, called as its document's readers call it: by curl.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use fanfare_local::{Event, Receiver};
use serde_json::{Value, json};

use crate::fanfare::{Fanfare, Tenant, order, requests, story};

/// A Fanfare that knows this folder's invented catalogs beside its own.
pub(crate) async fn with_invented_catalogs() -> Result<Fanfare> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("catalogs");
    Fanfare::start_with(&[("FANFARE_CATALOGS__PATH", folder.to_str().context("a path in UTF-8")?)]).await
}

// The commands as Structurely's document prints them (seed 002_1d94d8bf5054cf11); the backslash that it leaves out in the
// last one is put in.

const LIST: &str = r"curl 'https://api.structurely.com/v1/conversationWebhooks?name=My%20&trigger=response:created' \
    -H 'X-Api-Authorization: myapikey'";

const CREATE: &str = r#"curl 'https://api.structurely.com/v1/conversationWebhooks' \
  -X POST \
  -H 'X-Api-Authorization: myapikey' \
  -H 'Content-Type: application/json' \
  -d '{ "name": "My Webhook", "target": "https://www.example.com/webhooks/endpoint", "triggers": ["conversation:updated", "response:created"] }'"#;

const READ: &str = r"curl 'https://api.structurely.com/v1/conversationWebhooks/5ceec43ce1b5b412ba9d0e73' \
    -H 'X-Api-Authorization: myapikey'";

const UPDATE: &str = r#"curl 'https://api.structurely.com/v1/conversationWebhooks/5ceec43ce1b5b412ba9d0e73' \
    -X PATCH \
    -H 'X-Api-Authorization: myapikey' \
    -H 'Content-Type: application/json' \
    -d '{ "name": "My Cool Webhook", "target": "https://hooks.example.com/structurely/conversation_updated", "triggers": ["conversation:updated"] }'"#;

const DELETE: &str = r"curl 'https://api.structurely.com/v1/conversationWebhooks/5ceec43ce1b5b412ba9d0e73' \
    -X DELETE \
    -H 'X-Api-Authorization: myapikey'";

/// The id in the printed commands: ids are Fanfare's to give.
const PRINTED_ID: &str = "5ceec43ce1b5b412ba9d0e73";

/// Runs a printed command in a shell, with our host, this key and this id; returns the status and the body.
async fn as_printed(command: &str, api: &str, key: &str, id: &str) -> Result<(u16, String)> {
    let command = command.replace("https://api.structurely.com", api).replace("myapikey", key).replace(PRINTED_ID, id);
    // What curl prints is the body; its last line is ours, the status.
    let command = format!("{command} \\\n    -sS -w '\\n%{{http_code}}'");
    let output = tokio::task::spawn_blocking(move || Command::new("sh").arg("-c").arg(command).output()).await??;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout)?;
    let (body, status) = printed.rsplit_once('\n').context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}

fn fields(object: &Value) -> Vec<&str> {
    object.as_object().into_iter().flat_map(|map| map.keys().map(String::as_str)).collect()
}

/// The documented fields, in the order of the document's examples.
const EIGHT: [&str; 8] = ["id", "name", "target", "secret", "version", "triggers", "updatedAt", "createdAt"];

/// A webhook as the document has it: the eight fields in its order, their forms.
fn documented(webhook: &Value) {
    assert_eq!(fields(webhook), EIGHT);
    let text = |field: &str| webhook[field].as_str().unwrap_or_default().to_owned();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    assert!(text("id").len() == 24 && text("id").bytes().all(is_hex), "{webhook}");
    assert!(text("secret").len() == 48 && text("secret").bytes().all(|byte| byte.is_ascii_alphanumeric()), "{webhook}");
    assert_eq!(text("version"), "v1");
    for date in ["updatedAt", "createdAt"] {
        assert!(text(date).len() == "2019-05-29T12:41:16.000Z".len() && text(date).ends_with('Z'), "{webhook}");
    }
}

#[test]
fn structurelys_commands_work_as_printed() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant_of("client", "structurely").await?;
        let other = fanfare.tenant_of("other", "structurely").await?;
        let (api, key) = (fanfare.services.api.url()?, tenant.client.token().to_owned());

        let (status, body) = as_printed(CREATE, &api, &key, "").await?;
        assert_eq!(status, 201, "{body}");
        let created: Value = serde_json::from_str(&body)?;
        documented(&created);
        assert_eq!(created["name"], "My Webhook");
        assert_eq!(created["target"], "https://www.example.com/webhooks/endpoint");
        assert_eq!(created["triggers"], json!(["conversation:updated", "response:created"]));
        let id = created["id"].as_str().context("an id")?;

        // The document's list: by part of the name, its trailing blank kept, and an exact trigger; newest first.
        for (name, trigger) in [
            ("My Other Webhook", "response:created"),
            ("My Third Webhook", "conversation:updated"),
            ("MyOwn Webhook", "response:created"),
        ] {
            let body = json!({ "name": name, "target": "https://hooks.example.com/structurely/response_created", "triggers": [trigger] });
            tenant.client.post("/v1/conversationWebhooks", &body).await?;
        }
        let (status, body) = as_printed(LIST, &api, &key, id).await?;
        assert_eq!(status, 200, "{body}");
        let listed: Value = serde_json::from_str(&body)?;
        assert_eq!(fields(&listed), ["_metadata", "conversationWebhooks"]);
        assert_eq!(
            listed["_metadata"].to_string(),
            r#"{"collection":"conversationWebhooks","limit":10,"offset":0,"total":2}"#
        );
        let webhooks = listed["conversationWebhooks"].as_array().context("a list")?;
        webhooks.iter().for_each(documented);
        assert_eq!(webhooks.iter().map(|it| &it["name"]).collect::<Vec<_>>(), ["My Other Webhook", "My Webhook"]);

        let (status, body) = as_printed(READ, &api, &key, id).await?;
        assert_eq!((status, serde_json::from_str::<Value>(&body)?), (200, created.clone()));

        for command in [READ, UPDATE, DELETE] {
            let (status, _) = as_printed(command, &api, other.client.token(), id).await?;
            assert_eq!(status, 404, "a key sees its own client's webhooks alone");
        }

        let (status, body) = as_printed(UPDATE, &api, &key, id).await?;
        assert_eq!(status, 200, "{body}");
        let updated: Value = serde_json::from_str(&body)?;
        documented(&updated);
        assert_eq!(updated["name"], "My Cool Webhook");
        assert_eq!(updated["target"], "https://hooks.example.com/structurely/conversation_updated");
        assert_eq!(updated["triggers"], json!(["conversation:updated"]));
        for kept in ["id", "secret", "createdAt"] {
            assert_eq!(updated[kept], created[kept], "{kept}");
        }

        assert_eq!(as_printed(DELETE, &api, &key, id).await?, (204, String::new()));
        assert_eq!(as_printed(READ, &api, &key, id).await?.0, 404);
        assert_eq!(as_printed(DELETE, &api, &key, id).await?.0, 404);
        fanfare.balance().await
    });
}

/// The names that a query finds, in the answer's order.
async fn found(tenant: &Tenant, collection: &str, query: &str) -> Result<Vec<String>> {
    let listed = tenant.client.get(&format!("/v1/{collection}?{query}")).await?;
    let webhooks = listed[collection].as_array().context("a list")?;
    Ok(webhooks.iter().map(|webhook| webhook["name"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn a_list_answers_every_documented_query() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        list(&mut fanfare, "leadline", "leadWebhooks", ["reply:made", "lead:changed"]).await?;
        let structurelys = ["response:created", "conversation:updated"];
        list(&mut fanfare, "structurely", "conversationWebhooks", structurelys).await?;
        // Another catalog's name is not there.
        let standard = fanfare.tenant("plain").await?;
        for collection in ["leadWebhooks", "conversationWebhooks"] {
            assert_eq!(standard.client.ask("GET", &format!("/v1/{collection}"), None).await?.status, 404);
        }
        fanfare.balance().await
    });
}

/// Lists the webhooks of a catalog's tenant, some of whom want one of two event types.
async fn list(fanfare: &mut Fanfare, catalog: &str, collection: &str, [one, other_one]: [&str; 2]) -> Result<()> {
    let tenant = fanfare.tenant_of(&format!("{catalog}-acme"), catalog).await?;
    let other = fanfare.tenant_of(&format!("{catalog}-other"), catalog).await?;
    let both = json!([one, other_one]);
    for (name, target, triggers) in [
        ("My B", "https://b.example.com/hook?a=1", json!([one])),
        ("My A", "https://a.example.com/hook", both.clone()),
        ("my b", "https://b.example.com/hook", json!([other_one])),
        ("MyOwn", "https://a.example.com/hook", both),
    ] {
        let body = json!({ "name": name, "target": target, "triggers": triggers });
        tenant.client.post(&format!("/v1/{collection}"), &body).await?;
    }
    for (query, expected) in [
        ("", &["MyOwn", "my b", "My A", "My B"][..]), // -createdAt
        ("sort=createdAt", &["My B", "My A", "my b", "MyOwn"]),
        ("sort=%2BcreatedAt", &["My B", "My A", "my b", "MyOwn"]),
        ("sort=+createdAt", &["My B", "My A", "my b", "MyOwn"]), // a plus reaches a server as a blank
        ("sort=-name", &["my b", "MyOwn", "My B", "My A"]),
        ("sort=+target,-name", &["MyOwn", "My A", "my b", "My B"]),
        ("sort=-target,+name", &["My B", "my b", "My A", "MyOwn"]),
        ("sort=target,name", &["My A", "MyOwn", "my b", "My B"]),
        ("name=My%20", &["my b", "My A", "My B"]),
        ("name=my+", &["my b", "My A", "My B"]),
        ("name=B", &["my b", "My B"]),
        ("name=OWN", &["MyOwn"]),
        ("name=my%20%20", &[]),
        ("target=https://b.example.com/hook", &["my b"]),
        ("target=https%3A%2F%2Fb.example.com%2Fhook%3Fa%3D1", &["My B"]),
        ("target=https://b.example.com/", &[]),
        ("trigger={one}", &["MyOwn", "My A", "My B"]),
        ("trigger={escaped}", &["MyOwn", "My A", "My B"]),
        ("trigger=r", &[]),
        ("name=my%20&trigger={one}&sort=name", &["My A", "My B"]),
        ("limit=2", &["MyOwn", "my b"]),
        ("limit=2&offset=1&sort=createdAt", &["My A", "my b"]),
        ("offset=3", &["My B"]),
        ("offset=4", &[]),
    ] {
        let query = query.replace("{one}", one).replace("{escaped}", &one.replace(':', "%3A"));
        assert_eq!(found(&tenant, collection, &query).await?, expected, "{catalog}: {query}");
    }
    let part = tenant.client.get(&format!("/v1/{collection}?limit=1&offset=2&trigger={one}")).await?;
    assert_eq!(
        part["_metadata"],
        json!({ "collection": collection, "limit": 1, "offset": 2, "total": 3 }),
        "the total is of all that match"
    );
    assert_eq!(found(&other, collection, "").await?, Vec::<String>::new());
    for wrong in ["limit=0", "limit=101", "offset=-1", "sort=secret", "sort=active", "page=2", "limit=1&limit=2"] {
        let answer = tenant.client.ask("GET", &format!("/v1/{collection}?{wrong}"), None).await?;
        assert_eq!(answer.status, 422, "{wrong}");
    }
    // The contract's own name is there as well.
    assert_eq!(tenant.client.get("/v1/webhooks").await?["_metadata"]["collection"], "webhooks");
    Ok(())
}

#[test]
fn a_patch_sets_any_settable_field_and_no_other() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "leadline").await?;
        let body = json!({ "target": "https://example.com/a", "triggers": ["reply:made"] });
        let created = tenant.client.post("/v1/leadWebhooks", &body).await?;
        documented(&created);
        assert_eq!(created["name"], Value::Null, "a name is optional");
        let path = format!("/v1/leadWebhooks/{}", created["id"].as_str().context("an id")?);
        for (field, value) in [
            ("name", json!("My Webhook ")),
            ("target", json!("https://example.com/b?c=%20d")),
            ("triggers", json!(["lead:changed", "reply:made"])),
            ("name", Value::Null),
        ] {
            let changed = tenant.client.patch(&path, &json!({ field: value })).await?;
            assert_eq!(changed[field], value);
            assert_eq!(tenant.client.get(&path).await?, changed, "what is answered is what is stored");
        }
        let before = tenant.client.get(&path).await?;
        for field in EIGHT.iter().filter(|field| !["name", "target", "triggers"].contains(field)).chain(&["active"]) {
            let answer = tenant.client.ask("PATCH", &path, Some(&json!({ "name": "no", *field: "x" }))).await?;
            assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (422, &json!(field)), "{field}");
        }
        assert_eq!(tenant.client.get(&path).await?, before, "a refused change changes nothing");
        let stale = tenant.client.ask("GET", &path, None).await?;
        assert_eq!(stale.headers["etag"], "\"5\"", "the revision is told although the catalog does not show it");
        fanfare.balance().await
    });
}

#[test]
fn the_secret_that_was_shown_is_a_header_of_every_request_and_signs_it() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "leadline").await?;
        let receiver = Receiver::start().await?;
        let webhook = tenant.webhook(&receiver, "reply:made").await?;
        let event = Event::new("reply:made", json!({ "reply": { "text": "Hello" } })).with("subject", "5c09");
        tenant.client.publish(&event).await?;
        let got = &requests(&receiver, 1).await?[0];
        assert_eq!(got.header("x-leadline-secret"), Some(webhook.secret.as_str()));
        assert_eq!(got.body, r#"{"trigger":"reply:made","id":"5c09","reply":{"text":"Hello"}}"#);
        got.verify(&webhook.secret)?;
        fanfare.balance().await
    });
}

#[test]
fn a_method_that_an_address_does_not_take_is_answered_with_those_it_takes() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        for (path, method, allowed) in [
            ("/v1/webhooks", "DELETE", &["GET", "HEAD", "POST"][..]),
            ("/v1/webhooks/5ceec43ce1b5b412ba9d0e73", "PUT", &["DELETE", "GET", "HEAD", "PATCH"]),
            ("/v1/webhooks/5ceec43ce1b5b412ba9d0e73/ping", "GET", &["POST"]),
            ("/v1/deliveries", "POST", &["GET", "HEAD"]),
            ("/v1/tenants", "PUT", &["GET", "HEAD", "POST"]),
        ] {
            let answer = tenant.client.ask(method, path, None).await?;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            let mut allow: Vec<&str> = answer.headers["allow"].to_str()?.split(',').map(str::trim).collect();
            allow.sort_unstable();
            assert_eq!(allow, allowed, "{method} {path}");
        }
        fanfare.balance().await
    });
}

#[test]
fn an_event_is_explained_for_every_webhook() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (tenant, other) = (fanfare.tenant("acme").await?, fanfare.tenant("other").await?);
        let receiver = Receiver::start().await?;
        let named = async |name: &str, trigger: &str, fields: Value| {
            let mut all = json!({ "name": name });
            if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
                all.extend(fields);
            }
            tenant.webhook_with(&receiver, trigger, &all).await
        };
        named("wants it", "order.paid", json!({})).await?;
        named("wants another", "order.sent", json!({})).await?;
        named(
            "wants more",
            "*",
            json!({ "filter": { "data": { "total": [{ "numeric": [">", 100] }], "currency": ["EUR"] } } }),
        )
        .await?;
        named("is off", "order.paid", json!({ "active": false })).await?;
        let event = tenant.client.publish(&order("order.paid", 12)).await?;
        tenant.delivery_that_is(&event, "delivered").await?;
        tenant.delivery_that_is(&event, "held").await?;
        named("came later", "order.paid", json!({})).await?;

        let path = format!("/v1/events/{event}/explain");
        let explained = tenant.client.get(&path).await?;
        let of = |name: &str| {
            let webhooks = explained["webhooks"].as_array().into_iter().flatten();
            webhooks.clone().find(|webhook| webhook["name"] == name).cloned().unwrap_or_default()
        };
        for (name, why, delivery) in [
            ("wants it", "matched", json!("delivered")),
            ("wants another", "no_trigger", Value::Null),
            ("wants more", "filter", Value::Null),
            ("is off", "inactive", json!("held")),
            ("came later", "later", Value::Null),
        ] {
            assert_eq!((&of(name)["why"], &of(name)["delivery"]["status"]), (&json!(why), &delivery), "{explained}");
        }
        let parts = &of("wants more")["parts"];
        assert_eq!(
            (&parts[0]["path"], &parts[0]["found"], &parts[0]["holds"]),
            (&json!("data.total"), &json!([12]), &json!(false))
        );
        assert_eq!((&parts[1]["path"], &parts[1]["holds"]), (&json!("data.currency"), &json!(true)));
        assert_eq!(other.client.ask("GET", &path, None).await?.status, 404);
        tenant
            .client
            .patch(
                &format!("/v1/webhooks/{}", of("is off")["webhook"].as_str().context("an id")?),
                &json!({ "active": true }),
            )
            .await?;
        fanfare.balance().await
    });
}

#[test]
fn a_filter_is_tried_before_it_is_saved() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let filter = json!({ "data": { "total": [{ "numeric": [">", 10] }] } });
        let events = json!([{ "type": "a", "data": { "total": 11 } }, { "type": "b", "data": { "total": 10 } }]);
        let body = json!({ "filter": filter, "events": events });
        let tried = tenant.client.post("/v1/filters/test", &body).await?;
        assert_eq!((&tried["total"], &tried["matched"]), (&json!(2), &json!(1)));
        assert_eq!(tried["results"][1]["parts"][0]["found"], json!([10]));
        let body = json!({ "filter": filter, "events": events, "triggers": ["b"] });
        assert_eq!(tenant.client.post("/v1/filters/test", &body).await?["matched"], 0);
        let examples = tenant.client.post("/v1/filters/test", &json!({ "filter": { "type": ["order.paid"] } })).await?;
        assert!(examples["total"].as_u64() > examples["matched"].as_u64() && examples["matched"] == 1, "{examples}");
        for (wrong, field) in [
            (json!({ "filter": { "data": { "total": 7 } } }), "filter.data.total"),
            (json!({ "filter": null, "triggers": [] }), "triggers"),
            (json!({ "filter": null, "events": [1] }), "events"),
            (json!({ "pattern": {} }), "pattern"),
        ] {
            let answer = tenant.client.ask("POST", "/v1/filters/test", Some(&wrong)).await?;
            assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (422, &json!(field)), "{wrong}");
        }
        fanfare.balance().await
    });
}
