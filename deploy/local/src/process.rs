//! One child process: in a group of its own, its output in a log, ended with its sandbox.
use crate::sandbox::{Sandbox, tail};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a state of the system is looked at that nothing tells us about.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Waits at its standard input until its guard knows it: so it never outlives us, whenever we are killed.
const WAIT_FOR_GUARD: &str = r#"read -r _ && exec "$@" </dev/null"#;

/// A running child. Signals go to its group. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
    sandbox: Sandbox,
}

/// What a process took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Most memory resident at once.
    pub peak_memory_bytes: u64,
}

impl Process {
    /// Starts a command with only the environment set on it; its output goes to the end of `<name>.log` in the
    /// sandbox's folder of logs.
    pub fn start(sandbox: &Sandbox, name: &str, command: &Command) -> Result<Self> {
        let log = sandbox.logs().join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("opening `{}`", log.display()))?;
        let mut child = behind_guard(command)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let go = child.stdin.take();
        let process =
            Self { name: name.into(), pid: child.id(), child: Mutex::new(child), log, sandbox: sandbox.clone() };
        sandbox.guard().group(process.pid())?;
        go.context("the child has no standard input")?
            .write_all(b"go\n")
            .with_context(|| format!("starting {name}"))?;
        Ok(process)
    }

    /// Its pid, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Waits until it ends of itself.
    pub async fn wait(&self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {within:?}; its log ends:\n{}", self.name, self.log_tail(20));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGTERM, then waits.
    pub async fn terminate(&self, within: Duration) -> Result<ExitStatus> {
        self.ask_to_end();
        self.wait(within).await
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL; gone when this returns.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _ = self.child().wait(); // a killed child of ours can be waited for
    }

    /// SIGSTOP: it stands still, its connections stay.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// What it took so far: processor time and peak memory, from /proc.
    pub fn usage(&self) -> Result<Usage> {
        let folder = PathBuf::from(format!("/proc/{}", self.pid()));
        let read = |file| std::fs::read_to_string(folder.join(file)).with_context(|| format!("{} is gone", self.name));
        parse_usage(&read("stat")?, &read("status")?).with_context(|| format!("reading the usage of {}", self.name))
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child();
        let group = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Only before it was waited for is the number surely its own.
        if let (Ok(None), Some(group)) = (child.try_wait(), group) {
            let _ = kill_process_group(group, signal); // it may have ended this moment
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.sandbox.guard().ended(self.pid());
    }
}

fn behind_guard(command: &Command) -> Command {
    let mut behind = Command::new("/bin/sh");
    behind.args(["-c", WAIT_FOR_GUARD, "fanfare-local"]).arg(command.get_program()).args(command.get_args());
    behind.env_clear();
    behind.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    if let Some(folder) = command.get_current_dir() {
        behind.current_dir(folder);
    }
    behind
}

/// From proc(5): fields 14 and 15 of `stat` (after the name in parentheses), `VmHWM` of `status`.
fn parse_usage(stat: &str, status: &str) -> Option<Usage> {
    const TICKS_PER_SECOND: u64 = 100; // USER_HZ: the same on every Linux since 2.6
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let peak_kib: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(Usage { cpu: Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND), peak_memory_bytes: peak_kib * 1_024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(sandbox: &Sandbox, script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
        Process::start(sandbox, "shell", &command).unwrap()
    }

    /// Neither there nor a zombie.
    fn is_gone(pid: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    }

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
            tokio::time::sleep(POLL).await;
        }
    }

    #[tokio::test]
    async fn a_process_ends_by_itself_by_a_signal_or_when_dropped() {
        let sandbox = Sandbox::new().unwrap();
        let process = shell(&sandbox, "echo said; exit 3");
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(3));
        assert_eq!(process.log_tail(5), "said\n");

        let polite = shell(&sandbox, "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done");
        until("the trap is set", || polite.log_tail(1) == "up\n").await;
        assert!(polite.terminate(SOON).await.unwrap().success());

        let deaf = shell(&sandbox, "sleep 1000");
        let pid = deaf.pid();
        deaf.freeze();
        drop(deaf);
        assert!(is_gone(pid));
    }

    #[tokio::test]
    async fn a_sandbox_removes_its_folders_once_nobody_holds_it() {
        let sandbox = Sandbox::new().unwrap();
        let logs = sandbox.logs().to_owned();
        let process = shell(&sandbox, "sleep 1000 & echo $!; wait");
        until("the grandchild's pid", || !process.log_tail(1).is_empty()).await;
        let grandchild = process.log_tail(1).trim().parse().unwrap();
        drop(sandbox);
        assert!(logs.exists(), "the process still holds it");
        drop(process);
        assert!(!logs.exists());
        until("the whole group is gone", || is_gone(grandchild)).await;
    }

    /// Runs itself as a child that starts a process and is then killed with SIGKILL.
    #[tokio::test]
    async fn what_a_killed_program_started_ends_too() {
        const INNER: &str = "FANFARE_LOCAL_TEST_INNER";
        if let Some(pids) = std::env::var_os(INNER) {
            let sandbox = Sandbox::new().unwrap();
            let process = shell(&sandbox, "sleep 1000");
            std::fs::write(pids, format!("{} {}", process.pid(), sandbox.logs().display())).unwrap();
            std::future::pending::<()>().await;
        }
        let outer = Sandbox::new().unwrap();
        let pids = outer.logs().join("pids");
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", "process::tests::what_a_killed_program_started_ends_too"]).env(INNER, &pids);
        let itself = Process::start(&outer, "itself", &itself).unwrap();
        let read = || std::fs::read_to_string(&pids).unwrap_or_default();
        until("it started something", || read().contains(' ')).await;
        let said = read();
        let (pid, logs) = said.split_once(' ').unwrap();
        let pid = pid.parse().unwrap();
        assert!(!is_gone(pid));
        itself.kill();
        until("it is gone", || is_gone(pid)).await;
        until("so are its logs", || !Path::new(logs).exists()).await;
    }

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        let usage = parse_usage(stat, "Name:\ta\nVmHWM:\t  2048 kB\n").unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_secs(3), peak_memory_bytes: 2 * 1024 * 1024 });
    }
}
