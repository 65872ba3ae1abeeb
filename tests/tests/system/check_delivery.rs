//! `fanfare-api --check-delivery`, as the helm test runs it: it says how far an event comes, and leaves nothing behind.

use std::process::Command;

use anyhow::{Result, ensure};
use fanfare_local::{Binaries, Process, Service, free_port};
use serde_json::json;

use crate::fanfare::{Fanfare, PATIENCE, story};

/// Runs the check with these changes of the services' settings; returns whether it is content, and what it says.
async fn check(fanfare: &Fanfare, name: &str, changes: &[(&str, &str)]) -> Result<(bool, String)> {
    let mut command = Command::new(Binaries::of_profile("debug").path(Service::Api));
    command.envs(&fanfare.settings).envs(changes.iter().copied()).args([
        "--check-delivery",
        &fanfare.services.api.url()?,
        &fanfare.services.ingest.url()?,
        "127.0.0.1",
        &free_port()?.to_string(),
    ]);
    let process = Process::start(&fanfare.sandbox, name, &command)?;
    let ended = process.wait(PATIENCE).await?;
    let said = process.log_tail(20);
    for secret in ["FANFARE_API__ADMIN_TOKEN", "FANFARE_SECRETS__KEYS"] {
        ensure!(!said.contains(&fanfare.settings[secret]), "{secret} stands in what the check says");
    }
    ensure!(!said.contains("ffk_") && !said.contains("whsec_"), "a key or a secret stands in what the check says");
    Ok((ended.success(), said))
}

#[test]
fn the_check_sees_an_event_come_back_signed_and_leaves_no_tenant() {
    story(async {
        let fanfare = Fanfare::start().await?;
        let (content, said) = check(&fanfare, "check", &[]).await?;
        ensure!(content && said.contains("sent here, and is rightly signed"), "{said}");
        let tenants = fanfare.operator.ask("GET", "/v1/tenants/fanfare-check", None).await?;
        assert_eq!(tenants.status, 404);
        let ledger = fanfare.ledger("fanfare-check").await?;
        assert_eq!((ledger.get("created"), ledger.get("delivered")), (Some(&1), Some(&1)));

        // What a broken check left behind goes with the next; a tenant that it has not made does not.
        let left = json!({ "id": "fanfare-check", "name": "made by fanfare-api --check-delivery" });
        fanfare.operator.post("/v1/tenants", &left).await?;
        let (content, said) = check(&fanfare, "check-again", &[]).await?;
        ensure!(content, "{said}");
        fanfare.operator.post("/v1/tenants", &json!({ "id": "fanfare-check" })).await?;
        let (content, said) = check(&fanfare, "check-others", &[]).await?;
        ensure!(!content && said.contains("has not made"), "{said}");
        assert_eq!(fanfare.operator.ask("GET", "/v1/tenants/fanfare-check", None).await?.status, 200);
        fanfare.balance().await
    });
}

#[test]
fn where_deliveries_may_not_come_to_it_the_check_sees_the_attempt_in_the_log() {
    story(async {
        let fanfare = Fanfare::start().await?;
        let (content, said) = check(&fanfare, "check", &[("FANFARE_TARGETS__ALLOW_NETWORKS", "")]).await?;
        ensure!(content && said.contains("attempted and recorded") && said.contains("allowNetworks"), "{said}");
        fanfare.balance().await
    });
}

#[test]
fn a_check_that_cannot_pass_says_why() {
    story(async {
        let fanfare = Fanfare::start().await?;
        let (content, said) = check(&fanfare, "token", &[("FANFARE_API__ADMIN_TOKEN", "another")]).await?;
        ensure!(!content && said.contains("does not know the token in FANFARE_API__ADMIN_TOKEN"), "{said}");
        fanfare.services.dispatcher.kill();
        let (content, said) = check(&fanfare, "dispatcher", &[]).await?;
        ensure!(!content && said.contains("does a dispatcher work?"), "{said}");
        assert_eq!(fanfare.operator.ask("GET", "/v1/tenants/fanfare-check", None).await?.status, 404);
        Ok(())
    });
}
