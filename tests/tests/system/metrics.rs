//! What the services say of themselves: every metric is there with its closed labels, moves as it should, and is read by a
//! real Prometheus, whose alerts and panels all have an answer.
mod page; // docs/metrics.md, made from what is shown

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fanfare_local::{Answer, Process, Publisher, Receiver, Service, free_port};
use serde_json::Value;

use crate::fanfare::{Fanfare, PATIENCE, broker, order, requests, story};

/// All is shown within this, the broker's count of bytes as the last; then a page may be written anew.
const SHOWN_WITHIN: Duration = Duration::from_secs(45);
/// The series of every pod that Prometheus may keep.
const SERIES: usize = 500;

/// Samples of a text as Prometheus reads it: the family, its labels but for a bucket's, and the value.
struct Samples(Vec<(String, BTreeMap<String, String>, f64)>);

impl Samples {
    fn parse(text: &str) -> Result<Self> {
        let mut histograms = BTreeSet::new();
        let mut samples = Vec::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                histograms.extend(kind.strip_suffix(" histogram").map(str::to_owned));
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').context("a sample has a value")?;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let mut family = name;
            for suffix in ["_bucket", "_sum", "_count"] {
                let base = name.strip_suffix(suffix).unwrap_or_default();
                if histograms.contains(base) {
                    family = base;
                }
            }
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.filter_map(|label| label.split_once("=\"")).filter(|(name, _)| *name != "le");
            let labels =
                labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect();
            samples.push((family.to_owned(), labels, value.parse()?));
        }
        Ok(Self(samples))
    }

    /// The one series of a counter or gauge.
    fn value(&self, family: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let is = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| of.get(*name).is_some_and(|known| known == value))
        };
        let found: Vec<f64> =
            self.0.iter().filter(|(name, of, _)| name == family && is(of)).map(|(.., value)| *value).collect();
        ensure!(!found.is_empty(), "there is no {family} with {labels:?}");
        Ok(found.iter().sum())
    }
}

fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().context("promtool is not installed: deploy/local/install")?;
    running.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    let ended = running.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    ensure!(ended.status.success() && said.trim().is_empty(), "promtool {arguments:?}: {said}");
    Ok(())
}

async fn samples(fanfare: &Fanfare, service: Service) -> Result<Samples> {
    Samples::parse(&fanfare.services.get(service).metrics().await?)
}

/// Waits until this holds of a service's metrics.
async fn until(fanfare: &Fanfare, service: Service, holds: impl Fn(&Samples) -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = samples(fanfare, service).await?;
        if holds(&now)? {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{service:?}'s metrics never became what they should: {:?}", now.0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn the_guides_page_of_metrics_is_what_the_services_show_from_the_start() {
    story(async {
        let management = broker().await?.management_url();
        let fanfare = Fanfare::start_with(&[("FANFARE_AMQP__MANAGEMENT_URL", &management)]).await?;
        let file = repository().join("docs/metrics.md");
        let now = std::fs::read_to_string(&file)?;
        let anew = std::env::var_os("UPDATE_SNAPSHOTS").is_some();
        let deadline = Instant::now() + if anew { SHOWN_WITHIN } else { PATIENCE };
        loop {
            let mut texts = Vec::new();
            for service in Service::ALL {
                texts.push((service.name(), fanfare.services.get(service).metrics().await?));
            }
            let page = page::page(&now, &texts)?;
            if page == now {
                break;
            }
            if Instant::now() > deadline {
                ensure!(
                    anew,
                    "docs/metrics.md is not what the services show, run `make docs-metrics`: {:#?}",
                    page.lines().filter(|line| !now.lines().any(|known| known == *line)).collect::<Vec<_>>()
                );
                std::fs::write(&file, page)?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        fanfare.balance().await
    });
}

#[test]
fn every_metric_counts_what_was_published() {
    story(async {
        // At its own speed: a retry that is due before the scheduler comes to it goes through no tier, and none is counted.
        let mut fanfare = Fanfare::start().await?;
        for service in Service::ALL {
            let text = fanfare.services.get(service).metrics().await?;
            promtool(&["check", "metrics"], &text)?;
            let now = Samples::parse(&text)?;
            assert_eq!(now.value("fanfare_ready", &[("service", service.name())])?, 1.0);
            assert_eq!(now.value("fanfare_dependency_up", &[])?, 2.0, "{service:?}");
        }
        let tenant = fanfare.tenant("acme").await?;
        let (good, bad) = (Receiver::start().await?, Receiver::start().await?);
        bad.answer_in_turn([Answer::status(500), Answer::status(200)]);
        tenant.webhook(&good, "order.paid").await?;
        tenant.webhook(&bad, "order.bad").await?;
        for total in 0..40 {
            tenant.client.publish(&order("order.paid", total)).await?;
        }
        let twice = order("order.paid", 40);
        tenant.client.publish(&twice).await?;
        tenant.client.offer(&twice).await?;
        tenant.client.publish(&order("order.bad", 41)).await?;
        tenant.client.publish(&order("nobody.wants", 42)).await?;
        Publisher::connect(&fanfare.amqp_url).await?.publish(&tenant.id, &order("order.paid", 43)).await?;
        assert_eq!(tenant.client.post_events(&[("content-type", "application/json")], "{").await?.status, 400);
        requests(&good, 42).await?;
        requests(&bad, 2).await?;

        let is = |family: &'static str, labels: &'static [(&'static str, &'static str)], value: f64| {
            move |now: &Samples| Ok(now.value(family, labels)? == value)
        };
        let (ingest, dispatcher) = (Service::Ingest, Service::Dispatcher);
        until(&fanfare, ingest, is("fanfare_events_accepted_total", &[("source", "http")], 43.0)).await?;
        until(&fanfare, ingest, is("fanfare_events_accepted_total", &[("source", "amqp")], 1.0)).await?;
        until(&fanfare, ingest, is("fanfare_events_duplicate_total", &[("source", "http")], 1.0)).await?;
        until(&fanfare, ingest, is("fanfare_events_rejected_total", &[("reason", "invalid")], 1.0)).await?;
        until(&fanfare, ingest, is("fanfare_http_requests_total", &[("code", "202")], 44.0)).await?;
        until(&fanfare, Service::Fanout, is("fanfare_events_fanned_out_total", &[("matched", "true")], 43.0)).await?;
        until(&fanfare, Service::Fanout, is("fanfare_events_fanned_out_total", &[("matched", "false")], 1.0)).await?;
        until(&fanfare, Service::Fanout, is("fanfare_deliveries_created_total", &[], 43.0)).await?;
        until(&fanfare, dispatcher, is("fanfare_attempts_total", &[("outcome", "success")], 43.0)).await?;
        until(&fanfare, dispatcher, is("fanfare_attempts_total", &[("status_class", "5xx")], 1.0)).await?;
        until(&fanfare, dispatcher, is("fanfare_deliveries_total", &[("outcome", "delivered")], 43.0)).await?;
        until(&fanfare, dispatcher, is("fanfare_deliveries_in_flight", &[], 0.0)).await?;
        let counted = |family: &'static str, value: f64| {
            move |now: &Samples| {
                let mut buckets_sum_and_count = now.0.iter().filter(|(name, ..)| name == family);
                Ok(buckets_sum_and_count.next_back().is_some_and(|(.., count)| *count == value))
            }
        };
        until(&fanfare, dispatcher, counted("fanfare_first_attempt_delay_seconds", 43.0)).await?;
        until(&fanfare, dispatcher, counted("fanfare_delivery_latency_seconds", 43.0)).await?;
        until(&fanfare, dispatcher, counted("fanfare_attempt_duration_seconds", 44.0)).await?;
        until(&fanfare, dispatcher, counted("fanfare_retry_lateness_seconds", 1.0)).await?;
        let scheduler = Service::Scheduler;
        until(&fanfare, scheduler, |now| Ok(now.value("fanfare_retries_scheduled_total", &[])? >= 1.0)).await?;
        until(&fanfare, scheduler, is("fanfare_ledger_deliveries", &[("state", "delivered")], 43.0)).await?;
        until(&fanfare, scheduler, is("fanfare_ledger_deliveries", &[("state", "created")], 43.0)).await?;
        until(&fanfare, scheduler, is("fanfare_ledger_imbalance", &[], 0.0)).await?;
        until(&fanfare, scheduler, is("fanfare_webhooks", &[("state", "active")], 2.0)).await?;
        for service in Service::ALL {
            let text = fanfare.services.get(service).metrics().await?;
            promtool(&["check", "metrics"], &text)?;
            let series = text.lines().filter(|line| !line.starts_with('#')).count();
            ensure!(series < SERIES, "{service:?} shows {series} series");
            for secret in ["acme", tenant.client.token()] {
                ensure!(!text.contains(secret), "{service:?} names a tenant or a key");
            }
        }
        fanfare.balance().await
    });
}

#[test]
fn what_waits_for_its_retry_and_what_is_held_shows_by_its_age_and_one_scheduler_shows_it() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SCHEDULER__SPEED", "300")]).await?;
        let tenant = fanfare.tenant("acme").await?;
        let bad = Receiver::answering(Answer::status(500)).await?;
        let webhook = tenant.webhook(&bad, "order.paid").await?;
        tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&bad, 1).await?;
        let above = |reason: &'static str| {
            move |now: &Samples| Ok(now.value("fanfare_oldest_pending_seconds", &[("reason", reason)])? > 0.0)
        };
        until(&fanfare, Service::Scheduler, above("retry")).await?;
        let other = fanfare.another(Service::Scheduler).await?;
        let shown = Samples::parse(&other.metrics().await?)?;
        assert_eq!(shown.value("fanfare_ledger_deliveries", &[])?, 0.0, "another shows nothing");

        tenant.client.patch(&format!("/v1/webhooks/{}", webhook.id), &serde_json::json!({ "active": false })).await?;
        until(&fanfare, Service::Scheduler, above("held")).await?;
        until(&fanfare, Service::Scheduler, |now| Ok(now.value("fanfare_webhooks", &[("state", "off")])? == 1.0))
            .await?;
        other.stop(PATIENCE).await?;
        fanfare.balance().await
    });
}

#[test]
fn a_tenant_that_cannot_be_read_hides_no_other_from_the_gauges() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        fanfare.tenant("aaa").await?;
        let tenant = fanfare.tenant("acme").await?;
        let mut redis = fanfare.redis_connection().await?;
        let pending = "f:{aaa}:pend";
        let _: () = redis::cmd("SET").arg(pending).arg("no sorted set").query_async(&mut redis).await?;

        let receiver = Receiver::answering(Answer::status(200)).await?;
        tenant.webhook(&receiver, "order.paid").await?;
        tenant.client.publish(&order("order.paid", 1)).await?;
        requests(&receiver, 1).await?;
        let delivered = |now: &Samples| Ok(now.value("fanfare_ledger_deliveries", &[("state", "delivered")])? == 1.0);
        until(&fanfare, Service::Scheduler, delivered).await?;

        let _: () = redis::cmd("DEL").arg(pending).query_async(&mut redis).await?;
        fanfare.balance().await
    });
}

#[test]
fn a_delivery_that_is_put_off_says_by_which_limit() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let (rate, cap, asks) = (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        cap.answer(Answer::status(200).after(Duration::from_millis(1_500)));
        asks.answer_in_turn([Answer::status(429).header("retry-after", "2"), Answer::status(200)]);
        tenant.webhook_with(&rate, "order.rate", &serde_json::json!({ "rateLimit": 1 })).await?;
        tenant.webhook_with(&cap, "order.cap", &serde_json::json!({ "maxInFlight": 1 })).await?;
        tenant.webhook_with(&asks, "order.asks", &serde_json::json!({ "retrySchedule": ["1s"] })).await?;
        let put_off = |reason: &'static str| {
            move |now: &Samples| Ok(now.value("fanfare_deliveries_diverted_total", &[("reason", reason)])? >= 1.0)
        };
        tenant.client.publish(&order("order.asks", 0)).await?;
        // The receiver's wish is in force once its failure is recorded.
        let waits = |now: &Samples| Ok(now.value("fanfare_retries_scheduled_total", &[])? >= 1.0);
        until(&fanfare, Service::Scheduler, waits).await?;
        let now = samples(&fanfare, Service::Dispatcher).await?;
        assert_eq!(now.value("fanfare_deliveries_diverted_total", &[])?, 0.0);
        for total in 1..=3 {
            for kind in ["order.asks", "order.rate", "order.cap"] {
                tenant.client.publish(&order(kind, total)).await?;
            }
        }
        for reason in ["retry_after", "rate", "cap"] {
            until(&fanfare, Service::Dispatcher, put_off(reason)).await?;
        }
        requests(&rate, 3).await?;
        requests(&cap, 3).await?;
        requests(&asks, 5).await?;
        fanfare.balance().await
    });
}

#[test]
fn how_many_bytes_are_rejected_shows_where_the_brokers_management_is_known() {
    story(async {
        let management = broker().await?.management_url();
        let mut fanfare = Fanfare::start_with(&[("FANFARE_AMQP__MANAGEMENT_URL", &management)]).await?;
        fanfare.tenant("acme").await?;
        let bytes = |queue: &'static str, least: f64, most: f64| {
            move |now: &Samples| {
                let found = now.value("fanfare_queue_bytes", &[("queue", queue)]);
                Ok(found.is_ok_and(|bytes| (least..=most).contains(&bytes)))
            }
        };
        until(&fanfare, Service::Scheduler, bytes("fanfare.rejected", 0.0, 0.0)).await?;
        let publisher = Publisher::connect(&fanfare.amqp_url).await?;
        for _ in 0..3 {
            let structured = lapin::BasicProperties::default().with_content_type("application/cloudevents+json".into());
            publisher.send("acme.order.paid", "{".repeat(100_000).as_bytes(), structured).await?;
        }
        until(&fanfare, Service::Scheduler, bytes("fanfare.rejected", 300_000.0, 310_000.0)).await?;
        until(&fanfare, Service::Scheduler, bytes("fanfare.dead", 0.0, 0.0)).await?;
        let now = samples(&fanfare, Service::Scheduler).await?;
        for queue in ["fanfare.dead", "fanfare.rejected"] {
            assert_eq!(now.value("fanfare_queue_limit_bytes", &[("queue", queue)])?, f64::from(256 << 20));
        }
        fanfare.balance().await
    });
}

#[test]
fn where_the_brokers_management_does_not_answer_bytes_are_missing_and_its_password_is_not_told() {
    story(async {
        let right = broker().await?.management_url();
        let wrong = right.replace("guest:guest", "guest:not-the-word");
        let fanfare = Fanfare::start_with(&[("FANFARE_AMQP__MANAGEMENT_URL", &wrong)]).await?;
        let log = || fanfare.services.get(Service::Scheduler).process().log_tail(1_000);
        let deadline = Instant::now() + PATIENCE;
        while !log().contains("the broker's management API answers 401") {
            ensure!(Instant::now() < deadline, "nobody says that it does not answer: {}", log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ensure!(!log().contains("not-the-word"), "the log tells the password");
        let now = samples(&fanfare, Service::Scheduler).await?;
        ensure!(now.value("fanfare_queue_bytes", &[]).is_err(), "bytes are shown that nobody knows");
        assert_eq!(now.value("fanfare_queue_limit_bytes", &[])?, f64::from(512 << 20));
        fanfare.balance().await
    });
}

/// Debian's Prometheus over the five services and our alerts, with a scrape a second.
struct Prometheus {
    url: String,
    http: reqwest::Client,
    _process: Process,
}

impl Prometheus {
    fn start(fanfare: &Fanfare) -> Result<Self> {
        let folder = fanfare.sandbox.logs().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let rules = repository().join("deploy/alerts/fanfare.yaml");
        let mut config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n- job_name: fanfare\n  static_configs:\n  - targets:\n",
            rules
        );
        for service in Service::ALL {
            let address = fanfare.services.get(service).admin_url();
            writeln!(config, "    - {:?}", address.trim_start_matches("http://"))?;
        }
        let (file, port) = (folder.join("prometheus.yml"), free_port()?);
        std::fs::write(&file, config)?;
        let mut command = Command::new("/usr/bin/prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start(&fanfare.sandbox, "prometheus", &command)?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new(), _process: process })
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        let answered = self.http.get(format!("{}{path}", self.url)).send().await?.text().await?;
        serde_json::from_str(&answered).with_context(|| format!("{path} answered {answered}"))
    }

    /// What a query finds now; an error where it is none.
    async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let encoded = query.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02x}"); // into a string
            text
        });
        let answer = self.ask(&format!("/api/v1/query?query={encoded}")).await?;
        ensure!(answer["status"] == "success", "`{query}`: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until this finds something.
    async fn finds(&self, query: &str) -> Result<Vec<Value>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.query(query).await?;
            if !found.is_empty() {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "`{query}` finds nothing");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All queries of a dashboard by their panels' titles, as Grafana would ask them over the last half minute, with its variable
/// `tenant` set so.
fn panels(dashboard: &str, tenant: &str) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(repository().join("deploy/dashboards").join(dashboard))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().context("a dashboard has panels")? {
        let title = panel["title"].as_str().context("a panel has a title")?;
        if panel["type"] == "row" {
            continue;
        }
        ensure!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "`{title}` says nothing");
        ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "`{title}` has no unit");
        for target in panel["targets"].as_array().context("a panel asks")? {
            let query = target["expr"].as_str().context("a query")?;
            let query = query.replace("$__rate_interval", "30s").replace("$__range", "30s").replace("$tenant", tenant);
            queries.push((title.to_owned(), query));
        }
    }
    Ok(queries)
}

/// Lets a Prometheus scrape a Fanfare with these settings, under a load of the tenant `acme` that comes to the end of all that is
/// counted; every panel of *Overview* and *Services* must then have an answer, every alert must be well and quiet.
async fn scraped(changes: &[(&str, &str)], further: impl AsyncFnOnce(&Prometheus) -> Result<()>) -> Result<()> {
    let management = broker().await?.management_url();
    let own = [("FANFARE_SCHEDULER__SPEED", "100"), ("FANFARE_AMQP__MANAGEMENT_URL", management.as_str())];
    let settings: Vec<_> = own.iter().chain(changes).copied().collect();
    let mut fanfare = Fanfare::start_with(&settings).await?;
    let prometheus = Prometheus::start(&fanfare)?;
    let deadline = Instant::now() + PATIENCE;
    while prometheus.query("sum(up)").await.is_err() {
        ensure!(Instant::now() < deadline, "prometheus does not answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    prometheus.finds("sum(up) == 5").await?;
    let tenant = fanfare.tenant("acme").await?;
    let (good, bad) = (Receiver::start().await?, Receiver::start().await?);
    bad.answer_by(|request| Answer::status(if request.header("fanfare-attempt") == Some("1") { 500 } else { 200 }));
    tenant.webhook(&good, "order.paid").await?;
    tenant.webhook(&bad, "order.paid").await?;
    let enough = AtomicBool::new(false);
    let load = async {
        let mut total = 0;
        // To its end each time: a publisher that goes away in the middle leaves a claim behind.
        while !enough.load(Ordering::Relaxed) {
            tenant.client.publish(&order("order.paid", total)).await?;
            tenant.client.deliveries("limit=1").await?;
            total += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let questions = async {
        prometheus.finds("sum(fanfare_retry_lateness_seconds_count) > 0").await?;
        prometheus.finds("sum(fanfare_ledger_deliveries{state=\"delivered\"}) > 0").await?;
        for dashboard in ["overview.json", "services.json"] {
            for (title, query) in panels(dashboard, "")? {
                prometheus.finds(&query).await.with_context(|| format!("{dashboard}, panel `{title}`"))?;
            }
        }
        further(&prometheus).await?;
        let told = prometheus.ask("/api/v1/rules").await?;
        let groups = told["data"]["groups"].as_array().context("groups of rules")?.iter();
        let rules: Vec<&Value> = groups.filter_map(|group| group["rules"].as_array()).flatten().collect();
        ensure!(rules.len() > 20, "{} alerts", rules.len());
        for rule in rules {
            ensure!(rule["health"] == "ok", "{rule}");
            let runbook = rule["annotations"]["runbook_url"].as_str();
            ensure!(runbook.is_some_and(|url| url.contains("#fanfare")), "{rule}");
            ensure!(rule["state"] == "inactive", "under an ordinary load this fires: {rule}");
        }
        Ok::<_, anyhow::Error>(())
    };
    let questions = async {
        let asked = questions.await;
        enough.store(true, Ordering::Relaxed);
        asked
    };
    let (asked, loaded) = tokio::join!(questions, load);
    asked?;
    loaded?;
    fanfare.balance().await
}

/// The panel of *Tenant* that says whether tenants are told apart.
const TOLD_APART: &str = "Tenants told apart";

#[test]
fn a_prometheus_scrapes_all_and_every_panel_and_alert_has_an_answer() {
    story(scraped(&[], async |prometheus| {
        // Tenants are as one: Grafana's variable is then empty, and so is every panel but the one that says so.
        for (title, query) in panels("tenant.json", "")? {
            let found = prometheus.query(&query).await?;
            let values: Vec<_> = found.iter().map(|series| &series["value"][1]).collect();
            let expected: &[&str] = if title == TOLD_APART { &["0"] } else { &[] };
            ensure!(values == expected, "tenant.json, panel `{title}`: {found:?}");
        }
        Ok(())
    }));
}

#[test]
fn where_it_is_wanted_metrics_tell_tenants_apart_and_every_panel_and_alert_is_right_all_the_same() {
    story(scraped(&[("FANFARE_TELEMETRY__TENANT_LABELS", "true")], async |prometheus| {
        for (title, query) in panels("tenant.json", "acme")? {
            prometheus.finds(&query).await.with_context(|| format!("tenant.json, panel `{title}`"))?;
        }
        for query in [
            "fanfare_attempts_total{tenant=\"acme\",outcome=\"success\"} > 0",
            "fanfare_attempts_total{tenant=\"acme\",outcome=\"timeout\"} == 0",
            "fanfare_deliveries_total{tenant=\"acme\",outcome=\"delivered\"} > 0",
            "fanfare_deliveries_total{tenant=\"other\",outcome=\"delivered\"} == 0",
            "fanfare_ledger_deliveries{tenant=\"acme\",state=\"delivered\"} > 0",
            "fanfare_ledger_deliveries{tenant=\"other\",state=\"delivered\"} == 0",
            "fanfare_oldest_pending_seconds{tenant=\"acme\",reason=\"held\"} == 0",
        ] {
            prometheus.finds(query).await?;
        }
        Ok(())
    }));
}
