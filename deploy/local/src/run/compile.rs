//! The build: cargo's own progress stays visible. Built in the dev profile, this program runs the services as they were last
//! built in it.
use crate::Step;
use crate::plan::checkout;
use anyhow::{Context, bail};
use fanfare_local::Service;
use std::time::Instant;
use tokio::process::Command;

/// Of this program and of the services it starts.
pub(crate) const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

pub(crate) async fn services() -> Step<()> {
    if cfg!(debug_assertions) {
        return Ok(((), format!("{} services, as they were last built in the dev profile", Service::ALL.len())));
    }
    let begun = Instant::now();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release"]).current_dir(checkout()).kill_on_drop(true);
    // What `cargo run` would tell us of itself makes ring compile anew.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name.to_string_lossy().starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    for service in Service::ALL {
        cargo.args(["--package", &service.binary()]);
    }
    let status = cargo.status().await.context("starting cargo (is Rust installed? https://rustup.rs)")?;
    if !status.success() {
        bail!("cargo build --release ended with {status}; its errors stand above");
    }
    Ok(((), format!("{} services, {} s", Service::ALL.len(), begun.elapsed().as_secs())))
}
