//! What bad input gets: the right status, a problem that names the field, and nothing stored or published.

use anyhow::Result;
use fanfare_local::{Client, Event, Receiver};
use serde_json::{Value, json};

use crate::fanfare::{Fanfare, order, story};

fn problem(answer: &fanfare_local::Answered) -> Value {
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status);
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    problem
}

async fn refused(client: &Client, method: &str, path: &str, body: Value, status: u16, field: &str) -> Result<()> {
    let answer = client.ask(method, path, Some(&body)).await?;
    assert_eq!(answer.status, status, "{method} {path} {body}: {:?}", answer.json());
    let problem = problem(&answer);
    if !field.is_empty() {
        let fields: Vec<_> =
            problem["errors"].as_array().into_iter().flatten().map(|error| error["field"].clone()).collect();
        assert!(fields.contains(&json!(field)), "{method} {path} {body}: {fields:?} does not name {field}");
    }
    Ok(())
}

#[test]
fn a_bad_webhook_is_refused_with_its_fields_and_nothing_is_stored() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let good = json!({ "target": "https://example.com/hook", "triggers": ["order.paid"] });
        for (field, value, named) in [
            ("target", json!("ftp://example.com/"), "target"),
            ("target", json!("http://10.0.0.7/hook"), "target"),
            ("target", json!("http://169.254.169.254/latest"), "target"),
            ("target", json!(7), "target"),
            ("triggers", json!([]), "triggers"),
            ("triggers", json!(["has blank"]), "triggers[0]"),
            ("method", json!("GET"), "method"),
            ("headers", json!({ "Host": "x" }), "headers.Host"),
            ("headers", json!({ "webhook-signature": "x" }), "headers.webhook-signature"),
            ("headers", json!({ "Transfer-Encoding": "x" }), "headers.Transfer-Encoding"),
            ("filter", json!({ "data": { "total": 7 } }), "filter.data.total"),
            ("filter", json!({ "data": { "total": [{ "numeric": ["~", 1] }] } }), "filter.data.total[0].numeric[0]"),
            ("payload", json!("half"), "payload"),
            ("active", json!("yes"), "active"),
            ("notifyEmail", json!("nobody"), "notifyEmail"),
            ("retrySchedule", json!(["8d"]), "retrySchedule"),
            ("rateLimit", json!(-1), "rateLimit"),
            ("maxInFlight", json!(1_001), "maxInFlight"),
            ("secret", json!("mine"), "secret"),
            ("id", json!("mine"), "id"),
            ("colour", json!("red"), "colour"),
        ] {
            let mut body = good.clone();
            body[field] = value;
            refused(&tenant.client, "POST", "/v1/webhooks", body, 422, named).await?;
        }
        refused(&tenant.client, "POST", "/v1/webhooks", json!({}), 422, "triggers").await?;
        let not_json = tenant.client.ask("POST", "/v1/webhooks", Some(&json!("text"))).await?;
        assert!(matches!(not_json.status, 400 | 422), "{not_json:?}");
        let listed = tenant.client.get("/v1/webhooks").await?;
        assert_eq!((&listed["_metadata"]["total"], &listed["webhooks"]), (&json!(0), &json!([])), "nothing is stored");
        for query in ["limit=0", "limit=101", "limit=x", "offset=-1", "sort=colour"] {
            let field = query.split('=').next().unwrap();
            let answer = tenant.client.ask("GET", &format!("/v1/webhooks?{query}"), None).await?;
            assert_eq!((answer.status, &problem(&answer)["errors"][0]["field"]), (422, &json!(field)), "{query}");
        }
        fanfare.balance().await
    });
}

#[test]
fn a_key_opens_what_it_says_and_another_tenants_things_do_not_exist() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let (acme, other) = (fanfare.tenant("acme").await?, fanfare.tenant("other").await?);
        let receiver = Receiver::start().await?;
        let webhook = acme.webhook(&receiver, "order.paid").await?;
        let path = format!("/v1/webhooks/{}", webhook.id);
        let unknown = "/v1/webhooks/000000000000000000000000";
        for method in ["GET", "DELETE"] {
            let (foreign, missing) =
                (other.client.ask(method, &path, None).await?, other.client.ask(method, unknown, None).await?);
            assert_eq!((foreign.status, missing.status), (404, 404));
            assert_eq!(foreign.body, missing.body, "another's answers exactly as what does not exist");
        }
        let foreign = other.client.ask("PATCH", &path, Some(&json!({ "name": "mine" }))).await?;
        assert_eq!(foreign.status, 404);
        let event = acme.client.publish(&order("order.paid", 1)).await?;
        let delivery = acme.delivery_that_is(&event, "delivered").await?;
        let id = delivery["id"].as_str().unwrap();
        assert_eq!(other.client.ask("GET", &format!("/v1/deliveries/{id}"), None).await?.status, 404);
        assert_eq!(other.client.ask("GET", &format!("/v1/events/{event}"), None).await?.status, 404);

        let read = fanfare.operator.with_token(&fanfare.operator.create_key("acme", Some(&["read"])).await?);
        assert_eq!(read.ask("GET", &path, None).await?.status, 200);
        assert_eq!(problem(&read.ask("DELETE", &path, None).await?)["status"], 403);
        assert_eq!(problem(&read.offer(&order("order.paid", 2)).await?)["status"], 403);
        let publish = fanfare.operator.with_token(&fanfare.operator.create_key("acme", Some(&["publish"])).await?);
        assert_eq!(publish.ask("GET", &path, None).await?.status, 403);
        let nobody = fanfare.operator.with_token("ffk_acme_made-up");
        for answer in [nobody.ask("GET", &path, None).await?, nobody.offer(&order("order.paid", 2)).await?] {
            assert_eq!(problem(&answer)["status"], 401);
        }
        let tenants_key = acme.client.ask("POST", "/v1/tenants", Some(&json!({ "id": "x" }))).await?;
        assert_eq!(problem(&tenants_key)["status"], 403, "a tenant's key is none of the operator's");
        refused(&fanfare.operator, "POST", "/v1/tenants", json!({ "id": "acme" }), 409, "").await?;
        refused(&fanfare.operator, "POST", "/v1/tenants", json!({ "id": "Not OK" }), 422, "id").await?;
        refused(&fanfare.operator, "POST", "/v1/tenants", json!({ "id": "new", "catalog": "none" }), 422, "catalog")
            .await?;
        refused(&fanfare.operator, "POST", "/v1/tenants/acme/keys", json!({ "scopes": ["all"] }), 422, "scopes")
            .await?;
        let stale = acme.client.ask("GET", &path, None).await?;
        assert_eq!(stale.headers["etag"], "\"1\"");
        fanfare.balance().await
    });
}

#[test]
fn a_bad_event_is_refused_with_its_place_and_nothing_is_published() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_INGEST__MAX_EVENT_BYTES", "20000")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        tenant.webhook(&receiver, "order.paid").await?;
        let structured = [("content-type", "application/cloudevents+json")];
        for (body, status, field) in [
            ("{".to_owned(), 400, ""),
            ("[]".to_owned(), 400, ""),
            (order("order.paid", 1).without("id").to_json(), 422, "id"),
            (order("order.paid", 1).with("id", "i".repeat(256)).to_json(), 422, "id"),
            (order("order.paid", 1).with("specversion", "0.3").to_json(), 422, "specversion"),
            (order("fanfare.x", 1).to_json(), 422, "type"),
            (order("order.paid", 1).with("tenant", "other").to_json(), 422, "tenant"),
            (Event::new("order.paid", json!("x".repeat(20_000))).to_json(), 413, ""),
        ] {
            let shown: String = body.chars().take(80).collect();
            let answer = tenant.client.post_events(&structured, body).await?;
            assert_eq!(answer.status, status, "{shown}: {:?}", answer.json());
            let problem = problem(&answer);
            assert!(field.is_empty() || problem["errors"][0]["field"] == field, "{shown}: {problem}");
        }
        let unknown_form = tenant.client.post_events(&[("content-type", "text/csv")], "a,b").await?;
        assert_eq!(problem(&unknown_form)["status"], 415);
        let good = order("order.paid", 5).to_json();
        let mixed = format!("[{},{}]", good, order("order.paid", 6).without("source").to_json());
        let answer =
            tenant.client.post_events(&[("content-type", "application/cloudevents-batch+json")], mixed).await?;
        assert_eq!((answer.status, &answer.json()[1]["error"]["errors"][0]["field"]), (202, &json!("source")));
        let bad = format!("[{}]", order("order.paid", 6).without("source").to_json());
        let answer = tenant.client.post_events(&[("content-type", "application/cloudevents-batch+json")], bad).await?;
        assert_eq!(answer.status, 422);
        receiver.wait_for(1, crate::fanfare::PATIENCE).await?;
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 1, "only the good event of the batch was published");
        Ok(())
    });
}
