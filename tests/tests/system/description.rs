//! `/openapi.json` and `/docs`: what they say is what the api does.

use anyhow::{Context, Result, ensure};
use fanfare_local::{Answer, Client, Receiver};
use serde_json::{Map, Value, json};

use crate::{
    fanfare::{Fanfare, order, requests, story},
    management::with_invented_catalogs,
};

async fn description(fanfare: &Fanfare) -> Result<Value> {
    let nobody = fanfare.operator.with_token("");
    let answer = nobody.ask("GET", "/openapi.json", None).await?;
    ensure!(answer.status == 200 && answer.headers["content-type"] == "application/json", "{answer:?}");
    Ok(answer.json())
}

#[test]
fn every_described_address_takes_the_described_methods_and_no_others() {
    story(async {
        let fanfare = with_invented_catalogs().await?;
        let description = description(&fanfare).await?;
        let paths = description["paths"].as_object().context("paths")?;
        assert!(paths.contains_key("/v1/webhooks/{id}") && paths.contains_key("/v1/leadWebhooks/{id}"));
        for (path, operations) in paths {
            let path = path.replace(['{', '}'], "");
            // A method that no address takes: `Allow` says which it takes.
            let answer = fanfare.operator.ask("TRACE", &path, None).await?;
            assert_eq!(answer.status, 405, "{path}");
            let mut allowed: Vec<String> =
                answer.headers["allow"].to_str()?.split(',').map(|method| method.trim().to_lowercase()).collect();
            allowed.retain(|method| method != "head"); // comes with GET
            allowed.sort_unstable();
            let mut described: Vec<&String> = operations.as_object().context("operations")?.keys().collect();
            described.sort_unstable();
            assert_eq!(allowed.iter().collect::<Vec<_>>(), described, "{path}");
        }
        fanfare.balance().await
    });
}

/// Judges answers by the description, whose objects it takes to the letter: a field that is not described is wrong.
struct Judge {
    description: Value,
}

impl Judge {
    fn new(mut description: Value) -> Self {
        for schema in description["components"]["schemas"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            close(schema);
        }
        Self { description }
    }

    /// Asks, and holds what comes back against what is described for this operation and status.
    async fn ask(
        &self,
        client: &Client,
        method: &str,
        path: &str,
        body: Option<Value>,
        template: &str,
    ) -> Result<Value> {
        let answer = client.ask(method, path, body.as_ref()).await?;
        let operation = &self.description["paths"][template][method.to_lowercase()];
        ensure!(operation.is_object(), "{method} {template} is not described");
        let what = format!("{method} {path}: {} {}", answer.status, answer.json());
        if let (Some(body), true) = (&body, answer.status < 300) {
            self.holds(&operation["requestBody"]["content"]["application/json"]["schema"], body, &what)?;
        }
        let mut described = &operation["responses"][answer.status.to_string()];
        ensure!(described.is_object(), "{what} is not described");
        if let Some(reference) = described["$ref"].as_str() {
            described = self.description.pointer(reference.trim_start_matches('#')).context("a reference")?;
        }
        for (name, _) in described["headers"].as_object().into_iter().flatten() {
            ensure!(answer.headers.contains_key(name), "{what}: without `{name}`");
        }
        let content = described["content"].as_object().and_then(|content| content.iter().next());
        match content {
            None => ensure!(answer.body.is_empty(), "{what}: a body that is not described"),
            Some((kind, content)) => {
                ensure!(answer.headers["content-type"] == kind.as_str(), "{what}: {:?}", answer.headers);
                self.holds(&content["schema"], &answer.json(), &what)?;
            }
        }
        Ok(answer.json())
    }

    fn holds(&self, schema: &Value, instance: &Value, what: &str) -> Result<()> {
        let mut schema = schema.clone();
        close(&mut schema);
        let whole = json!({ "allOf": [schema], "components": self.description["components"] });
        let validator = jsonschema::draft202012::new(&whole)?;
        let errors: Vec<String> =
            validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect();
        ensure!(errors.is_empty(), "{what}\nis not as described: {errors:#?}");
        Ok(())
    }
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.get("properties").is_some_and(Value::is_object) && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".into(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[test]
fn every_answer_is_as_described() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let judge = Judge::new(description(&fanfare).await?);
        let operator = fanfare.operator.clone();
        let tenant = fanfare.tenant("acme").await?;
        let (own, receiver) = (&tenant.client, Receiver::start().await?);
        let ask = async |client: &Client, method: &str, path: &str, body: Option<Value>, template: &str| {
            judge.ask(client, method, path, body, template).await
        };

        let new = json!({ "id": "other", "name": "Other", "catalog": "leadline" });
        ask(&operator, "POST", "/v1/tenants", Some(new.clone()), "/v1/tenants").await?;
        ask(&operator, "POST", "/v1/tenants", Some(new), "/v1/tenants").await?; // 409
        ask(&operator, "POST", "/v1/tenants", Some(json!({ "id": "Not OK" })), "/v1/tenants").await?; // 422
        ask(own, "GET", "/v1/tenants", None, "/v1/tenants").await?; // 403
        ask(&operator.with_token("x"), "GET", "/v1/tenants", None, "/v1/tenants").await?; // 401
        ask(&operator, "GET", "/v1/tenants", None, "/v1/tenants").await?;
        let of_tenant = "/v1/tenants/{id}";
        ask(&operator, "GET", "/v1/tenants/other", None, of_tenant).await?;
        ask(&operator, "GET", "/v1/tenants/none", None, of_tenant).await?; // 404
        ask(&operator, "PATCH", "/v1/tenants/other", Some(json!({ "name": null })), of_tenant).await?;
        for (at, template) in [("/v1/tenants/other/keys", "/v1/tenants/{id}/keys"), ("/v1/keys", "/v1/keys")] {
            let made = ask(&operator, "POST", at, Some(json!({ "name": "k" })), template).await?;
            ask(&operator, "GET", at, None, template).await?;
            let key = format!("{at}/{}", made["id"].as_str().context("an id")?);
            ask(&operator, "DELETE", &key, None, &format!("{template}/{{key}}")).await?;
        }
        ask(&operator, "DELETE", "/v1/tenants/other", None, of_tenant).await?;

        ask(own, "GET", "/v1/event-types", None, "/v1/event-types").await?;
        ask(own, "GET", "/v1/triggers", None, "/v1/triggers").await?;
        let whole = json!({
            "name": "n", "description": "d", "target": receiver.url("/hook"), "method": "PUT", "headers": { "X-A": "b" },
            "triggers": ["order.paid"], "filter": { "data": { "total": [{ "numeric": [">", 1] }] } }, "payload": "full",
            "active": true, "notifyEmail": "a@example.com", "retrySchedule": ["1s"], "rateLimit": 5, "maxInFlight": 7,
        });
        let webhook = ask(own, "POST", "/v1/webhooks", Some(whole), "/v1/webhooks").await?;
        ask(own, "POST", "/v1/webhooks", Some(json!({})), "/v1/webhooks").await?; // 422
        ask(own, "GET", "/v1/webhooks", None, "/v1/webhooks").await?;
        let (at, template) =
            (format!("/v1/webhooks/{}", webhook["id"].as_str().context("an id")?), "/v1/webhooks/{id}");
        ask(own, "GET", &at, None, template).await?;
        let reset = json!({ "filter": null, "rateLimit": null, "maxInFlight": null, "payload": null });
        ask(own, "PATCH", &at, Some(reset), template).await?;
        let then = |act: &str| (format!("{at}/{act}"), format!("{template}/{act}"));
        for (act, body) in [
            ("ping", json!({ "eventType": "order.shipped" })),
            ("secret/rotate", json!({ "graceSeconds": 60 })),
            ("enable", json!({ "held": "deliver" })),
        ] {
            let (at, template) = then(act);
            ask(own, "POST", &at, Some(body), &template).await?;
        }

        receiver.answer(Answer::status(500).body("no"));
        let event = own.publish(&order("order.paid", 7)).await?;
        let failed = tenant.delivery_that_is(&event, "failed").await?;
        let delivery = format!("/v1/deliveries/{}", failed["id"].as_str().context("an id")?);
        ask(own, "GET", "/v1/deliveries", None, "/v1/deliveries").await?;
        ask(own, "GET", &delivery, None, "/v1/deliveries/{id}").await?;
        for act in ["retry", "cancel"] {
            let template = format!("/v1/deliveries/{{id}}/{act}");
            ask(own, "POST", &format!("{delivery}/{act}"), None, &template).await?; // 409: it has ended
        }
        ask(own, "PATCH", &at, Some(json!({ "retrySchedule": ["1h", "1h"] })), template).await?;
        let before = receiver.count();
        let event = own.publish(&order("order.paid", 8)).await?;
        requests(&receiver, before + 1).await?;
        let delivery = format!("/v1/deliveries/{event}_{}", webhook["id"].as_str().context("an id")?);
        while own.get(&delivery).await?["nextAttemptAt"].is_null() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        ask(own, "POST", &format!("{delivery}/retry"), None, "/v1/deliveries/{id}/retry").await?;
        requests(&receiver, before + 2).await?;
        while own.get(&delivery).await?["sending"] == true {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        ask(own, "POST", &format!("{delivery}/cancel"), None, "/v1/deliveries/{id}/cancel").await?;
        ask(own, "GET", "/v1/events", None, "/v1/events").await?;
        ask(own, "GET", &format!("/v1/events/{event}"), None, "/v1/events/{event}").await?;
        ask(own, "GET", "/v1/events/none", None, "/v1/events/{event}").await?; // 404
        ask(own, "GET", &format!("/v1/events/{event}/explain"), None, "/v1/events/{event}/explain").await?;
        let over = json!({ "filter": { "data": { "total": [{ "numeric": [">", 9_999] }] } }, "triggers": ["*"] });
        ask(own, "POST", "/v1/filters/test", Some(over), "/v1/filters/test").await?;
        ask(own, "DELETE", &at, None, template).await?;
        fanfare.balance().await
    });
}

#[test]
fn the_description_can_be_read_without_a_key_a_script_or_another_page() {
    story(async {
        let fanfare = Fanfare::start().await?;
        let answer = fanfare.operator.with_token("").ask("GET", "/docs", None).await?;
        assert_eq!((answer.status, answer.headers["content-type"].to_str()?), (200, "text/html; charset=utf-8"));
        let page = String::from_utf8(answer.body.to_vec())?;
        assert!(page.contains("/v1/webhooks/{id}/ping") && !page.contains("<script"));
        assert!(answer.headers["content-security-policy"].to_str()?.starts_with("default-src 'none'"));
        fanfare.balance().await
    });
}
