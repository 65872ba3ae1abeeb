//! What is started together and ends together: a guard, a folder for logs, folders for state.
use crate::guard::Guard;
use crate::root::Root;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Holds what is started in it; a clone is the same one. With the last clone (each process holds one), or with the
/// process that made it, however that ends, all of it is killed and its folders are removed.
#[derive(Clone, Debug)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    guard: Guard,
    logs: PathBuf,
}

impl Sandbox {
    /// Logs go to a folder that is removed at the end.
    pub fn new() -> Result<Self> {
        let guard = Guard::start()?;
        let logs = fresh_folder(&std::env::temp_dir())?;
        guard.folder(&logs)?;
        Ok(Self(Arc::new(Inner { guard, logs })))
    }

    /// Logs go to this folder, and stay.
    pub fn with_logs(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder `{}`", folder.display()))?;
        let logs = folder.canonicalize()?;
        Ok(Self(Arc::new(Inner { guard: Guard::start()?, logs })))
    }

    /// Where each process has its log, `<name>.log`.
    pub fn logs(&self) -> &Path {
        &self.0.logs
    }

    /// The last lines of every log here, to print when a test fails.
    pub fn log_tails(&self, lines: usize) -> String {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.logs())
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.sort();
        logs.iter().fold(String::new(), |mut tails, path| {
            let _ = write!(tails, "--- {}\n{}", path.display(), tail(path, lines)); // a String takes all
            tails
        })
    }

    pub(crate) fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// A folder for a server's state, below the root it runs in; removed at the end.
    pub(crate) fn state_folder(&self, root: &Root) -> Result<PathBuf> {
        // Not below the logs: the broker's own user has to reach it, and a checkout may lie in /root.
        let temporary = if root.is_this_machine() { std::env::temp_dir() } else { root.outside(Path::new("/tmp")) };
        let folder = fresh_folder(&temporary)?;
        self.guard().folder(&folder)?;
        Ok(folder)
    }
}

fn fresh_folder(within: &Path) -> Result<PathBuf> {
    loop {
        let folder = within.join(format!("fanfare-{:08x}", rand::random::<u32>()));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("making the folder `{}`", folder.display())),
        }
    }
}

/// The last lines of a file; empty where there is none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let start = text.lines().count().saturating_sub(lines);
    text.lines().skip(start).fold(String::new(), |all, line| all + line + "\n")
}
