//! `make run`, as a person sees it: every catalog's examples arrive, retries come sooner where one asks, and nothing of it is left.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fanfare_local::{Binaries, Client, Holder, Process, Sandbox, free_ports, holder_of};

use crate::fanfare::{PATIENCE, story};

/// As many ports as one run takes.
const PORTS: u16 = 11;

struct Run {
    process: Process,
    ports: std::ops::Range<u16>,
    folder: PathBuf,
}

impl Run {
    async fn start(sandbox: &Sandbox, catalog: &str, speed: Option<&str>) -> Result<Self> {
        let ports = free_ports(PORTS)?;
        let api = Binaries::of_profile("debug").path(fanfare_local::Service::Api);
        let mut command = Command::new(api.with_file_name("fanfare-run"));
        command.env("CATALOG", catalog).env("PORT_BASE", ports.start.to_string());
        if let Some(speed) = speed {
            command.env("SPEED", speed);
        }
        for inherited in ["PATH", "HOME", "CARGO_TARGET_DIR", "FANFARE_TEST_ROOT", "FANFARE_TEST_REDIS"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        let process = Process::start(sandbox, &format!("run-{catalog}"), &command)?;
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = checkout.join(".run").join(ports.start.to_string());
        let run = Self { process, ports, folder };
        run.lines_with("  others   ", 1).await?;
        Ok(run)
    }

    /// Waits until so many lines hold this text, and returns them.
    async fn lines_with(&self, text: &str, count: usize) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.process.log_tail(1_000);
            let found: Vec<String> = said.lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            if found.len() >= count {
                return Ok(found);
            }
            ensure!(
                self.process.ended().is_none() && Instant::now() < deadline,
                "`{text}` stands in {} of {count} lines:\n{said}",
                found.len()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A command that is offered as the way to go on.
    async fn offered(&self, name: &str) -> Result<String> {
        let found = self.lines_with(&format!("  {name} "), 1).await?;
        Ok(found[0].trim_start().trim_start_matches(name).trim().to_owned())
    }

    async fn do_as_offered(&self, name: &str) -> Result<()> {
        let line = self.offered(name).await?;
        let done = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &line]).output()).await??;
        let answer = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success() && !answer.contains("\"status\""), "{name}: {answer}");
        Ok(())
    }

    /// A client with the key that is offered.
    async fn client(&self) -> Result<Client> {
        let line = self.offered("publish").await?;
        let key = line.split_once("Bearer ").and_then(|(_, rest)| rest.split('\'').next()).context("a key")?.to_owned();
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        Client::new(&at(self.ports.start + 1), &at(self.ports.start), &key)
    }

    /// SIGTERM; all it started is gone with it.
    async fn stop(self) -> Result<()> {
        let status = self.process.terminate(PATIENCE).await?;
        let said = self.process.log_tail(1_000);
        ensure!(status.success() && said.ends_with("stopped\n"), "{status}:\n{said}");
        for port in self.ports.clone() {
            let holder = holder_of(port);
            ensure!(matches!(holder, None | Some(Holder::EndedConnection)), "{port} is still held");
        }
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("removing `{}`", self.folder.display()))
    }
}

#[test]
fn make_run_shows_every_catalogs_examples_arriving_and_leaves_nothing_behind() {
    story(async {
        let sandbox = Sandbox::new()?;
        for (catalog, tests_on_save) in
            [("standard", 0), ("apirtc", 0), ("capturi", 0), ("ebbot", 0), ("structurely", 0), ("tracebuzz", 1)]
        {
            let run = Run::start(&sandbox, catalog, None).await?;
            let types = run.client().await?.event_types().await?;
            let own = types.iter().filter(|kind| !kind.name.starts_with("fanfare."));
            let examples = own.map(|kind| kind.examples.len()).sum::<usize>().max(1); // `standard` knows no type
            let said = run.lines_with("", 1).await?;
            let arrived = |way: &str| {
                let mut lines = said.iter().filter(|line| line.contains(way)).collect::<Vec<_>>();
                lines.retain(|line| line.contains("  delivered") && line.ends_with("  200  signature ok"));
                lines.len()
            };
            let expected = (examples, examples, tests_on_save);
            assert_eq!(
                (arrived("  over HTTP  "), arrived("  over AMQP  "), arrived("  on save  ")),
                expected,
                "{said:#?}"
            );
            for word in ["not delivered", "not accepted", "wrong", "warning"] {
                assert!(!said.iter().any(|line| line.contains(word)), "{said:#?}");
            }
            run.do_as_offered("publish").await?;
            let all = 2 * examples + tests_on_save + 1;
            assert_eq!(run.lines_with("  200  signature ok", all).await?.len(), all, "{catalog}");
            run.stop().await?;
        }
        Ok(())
    });
}

#[test]
fn make_run_shows_a_whole_timetable_sooner_where_one_asks_for_it() {
    story(async {
        let sandbox = Sandbox::new()?;
        let run = Run::start(&sandbox, "tracebuzz", Some("100000")).await?;
        assert_eq!(run.lines_with("retries come 100000 times as soon", 1).await?.len(), 1);
        std::fs::write(run.folder.join("answer"), "503\n")?;
        run.do_as_offered("publish").await?;
        let refused = run.lines_with("  refused  503  signature ok", 11).await?;
        assert!(refused[10].ends_with("  attempt 11"), "{refused:#?}");
        let client = run.client().await?;
        let deadline = Instant::now() + PATIENCE;
        while client.get("/v1/webhooks").await?["webhooks"][0]["disabled"].is_null() {
            ensure!(Instant::now() < deadline, "it is never disabled");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::fs::write(run.folder.join("answer"), "200\n")?;
        let before = run.lines_with("  200  signature ok", 1).await?.len();
        run.do_as_offered("enable").await?;
        run.do_as_offered("publish").await?;
        run.lines_with("  200  signature ok", before + 2).await?;
        run.stop().await
    });
}
