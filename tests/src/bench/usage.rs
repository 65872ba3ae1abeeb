//! Processor time and memory of processes, from /proc.
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::ops::Sub;

/// What a process, or all of a tree, took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Hundredths of a second, user and system (USER_HZ: the same on every Linux since 2.6).
    ticks: u64,
    /// Most memory resident at once; of a tree the sum.
    pub(super) peak_bytes: u64,
}

impl Usage {
    pub(super) fn cpu_millis(self) -> u64 {
        self.ticks * 10
    }
}

/// What was taken since; the peak stays what it is.
impl Sub for Usage {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self { ticks: self.ticks.saturating_sub(earlier.ticks), ..self }
    }
}

/// What this process took.
pub(super) fn own() -> Result<Usage> {
    read(std::process::id()).map(|process| process.usage).context("reading our own usage from /proc")
}

/// What the processes took, each with all that descend from it.
pub(super) fn of_trees(roots: &[u32]) -> Result<Vec<Usage>> {
    let entries = std::fs::read_dir("/proc").context("reading /proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let processes: HashMap<u32, Process> = pids.filter_map(|pid| Some((pid, read(pid)?))).collect();
    roots.iter().map(|root| of_tree(*root, &processes).with_context(|| format!("pid {root} is gone"))).collect()
}

struct Process {
    parent: u32,
    usage: Usage,
}

fn of_tree(root: u32, processes: &HashMap<u32, Process>) -> Option<Usage> {
    let mut sum = processes.get(&root)?.usage;
    for (child, process) in processes {
        if process.parent == root && *child != root {
            let below = of_tree(*child, processes)?;
            sum.ticks += below.ticks;
            sum.peak_bytes += below.peak_bytes;
        }
    }
    Some(sum)
}

/// `None` where it has just ended.
fn read(pid: u32) -> Option<Process> {
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    parse(&read("stat")?, &read("status")?)
}

/// From proc(5): fields 4, 14 and 15 of `stat` (after the name in parentheses), `VmHWM` of `status` (a kernel thread and
/// a zombie have none).
fn parse(stat: &str, status: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let usage = Usage { ticks: number(11)? + number(12)?, peak_bytes: peak.unwrap_or_default() * 1_024 };
    Some(Process { parent: number(1)?.try_into().ok()?, usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_summed() {
        let process = |parent, ticks| Process { parent, usage: Usage { ticks, peak_bytes: ticks } };
        let processes = [(1, process(0, 1)), (2, process(1, 10)), (3, process(2, 100)), (4, process(1, 1_000))].into();
        assert_eq!(of_tree(2, &processes), Some(Usage { ticks: 110, peak_bytes: 110 }));
        assert_eq!(of_tree(5, &processes), None);
    }

    #[test]
    fn a_process_is_read_from_proc() {
        let stat = "77 (a (b) c) S 3 77 77 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        let process = parse(stat, "Name:\ta\nVmHWM:\t  2048 kB\n").unwrap();
        assert_eq!((process.parent, process.usage.cpu_millis(), process.usage.peak_bytes), (3, 3_000, 2 << 20));
    }
}
