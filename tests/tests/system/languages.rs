//! Publishers and receivers that are not written in Rust: the CloudEvents SDK and pika publish, the Standard Webhooks library
//! verifies.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use fanfare_local::Receiver;
use serde_json::json;

use crate::fanfare::{Fanfare, requests, story};

/// Python with the libraries that tests/languages/install puts in place.
pub(crate) fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join("languages/bin/python")
}

/// Runs a script beside its input; its output where it succeeds. tests/languages/install puts its libraries in place.
fn run(script: &str, arguments: &[&str], input: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("languages").join(script);
    let mut command = Command::new(python());
    command.arg(path).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting Python: tests/languages/install")?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn publishers_and_receivers_in_python_find_what_they_expect() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        let webhook = tenant.webhook(&receiver, "order.paid").await?;
        let ingest = fanfare.services.ingest.url()?;
        run("publish.py", &[&ingest, tenant.client.token(), &fanfare.amqp_url, &tenant.id], "")?;
        let got = requests(&receiver, 4).await?;
        let mut totals: Vec<u64> = got.iter().filter_map(|request| request.json()["data"]["total"].as_u64()).collect();
        totals.sort_unstable();
        assert_eq!(totals, [1, 2, 3, 4]);
        assert!(got.iter().all(|request| request.json()["data"]["note"] == "größer"));
        let lines = got.iter().map(|request| {
            let headers: serde_json::Map<String, serde_json::Value> =
                request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), json!(value))).collect();
            let body = String::from_utf8_lossy(&request.body);
            json!({ "secret": webhook.secret, "headers": headers, "body": body }).to_string() + "\n"
        });
        assert_eq!(run("verify.py", &[], &lines.collect::<String>())?.trim(), r#"{"verified": 4}"#);
        fanfare.balance().await
    });
}
