//! The guard: a small shell that reads what we start, and ends it when its pipe from us closes. So a killed test run
//! or Ctrl-C leaves nothing behind, and only what was named here is ever ended.
use anyhow::{Context, Result};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct Guard {
    shell: Mutex<Child>,
}

impl Guard {
    pub(crate) fn start() -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", include_str!("guard.sh"), "fanfare-guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // a signal to our group (Ctrl-C, a runner's timeout) must not end it before us
            .spawn()
            .context("starting `sh`")?;
        Ok(Self { shell: Mutex::new(shell) })
    }

    /// Ends this process group with us.
    pub(crate) fn group(&self, pid: u32) -> Result<()> {
        self.tell(&format!("group {pid}"))
    }

    /// The group is gone: its number may soon be another's.
    pub(crate) fn ended(&self, pid: u32) {
        let _ = self.tell(&format!("ended {pid}")); // without a guard there is nothing to tell
    }

    pub(crate) fn folder(&self, path: &Path) -> Result<()> {
        self.tell(&format!("folder {}", path.display()))
    }

    pub(crate) fn container(&self, name: &str) -> Result<()> {
        self.tell(&format!("container {name}"))
    }

    fn tell(&self, line: &str) -> Result<()> {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = shell.stdin.as_mut().context("the guard has no pipe")?;
        pipe.write_all(format!("{line}\n").as_bytes()).context("the guard shell is gone")
    }
}

impl Drop for Guard {
    /// Closes the pipe and waits, so that after us nothing is left.
    fn drop(&mut self) {
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = shell.wait(); // closes its standard input first
    }
}
