//! Prints what was measured, as it comes and as tables.
use super::drive::Run;
use super::faults::Fault;
use super::plan::{Part, Plan};
use super::receiver::Received;
use super::redis;
use super::setup::Stage;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// p99 at the steady rate, to ship at.
const P99_GOAL_MILLIS: f64 = 15.0;

/// Prints to standard output.
pub(super) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("printing")
}

/// Prints to standard error.
pub(super) fn complain(text: &str) -> Result<()> {
    std::io::stderr().write_all(text.as_bytes()).context("printing")
}

/// The report so far.
pub(super) struct Report {
    text: String,
    file: Option<PathBuf>,
}

impl Report {
    /// What is measured, on what.
    pub(super) async fn begin(plan: &Plan, stage: &Stage) -> Result<Self> {
        let mut report = Self { text: String::new(), file: plan.keep.clone() };
        let processors = std::thread::available_parallelism()?;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let overview = stage.broker.management("GET", "overview", None).await?;
        let broker = overview["rabbitmq_version"].as_str().unwrap_or("?");
        let redis = redis::info(stage.redis.port(), "redis_version").await?;
        let pids: Vec<String> = stage.processes().iter().map(|(name, pid)| format!("{name} {pid}")).collect();
        report.line(&format!(
            "{processors} processors, load average {load} before; RabbitMQ {broker}; Redis {redis}, appendfsync always\n\
             each run {} deliveries of events of about 1 KiB; webhooks of catalog `standard` with maxInFlight {}, so that\n\
             this cap is not what is measured; rates are from the first publish to the last delivery\n\
             http: single requests over {} kept connections; batch: 100 events a request over {}; amqp: {} unconfirmed;\n\
             …10: each event to ten webhooks; floor: one process, two quorum queues, one event a message, no Redis\n\
             pids: {}\n",
            grouped(plan.deliveries as f64),
            plan.posts,
            plan.connections,
            plan.batchers,
            plan.in_flight,
            pids.join(", ")
        ))?;
        Ok(report)
    }

    /// A run begins; pair 0 is the warm-up.
    pub(super) fn began(&mut self, part: Part, pair: usize, pid: u32) -> Result<()> {
        let when = if pair == 0 { "warm-up".to_owned() } else { format!("pair {pair} ") };
        self.write(&format!("{when}  {:8} (pid {pid}) ", part.name()))
    }

    /// A run ended.
    pub(super) fn ended(&mut self, run: &Run, expected: usize) -> Result<()> {
        let mut text = match run.part {
            Part::Latency => format!(
                "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
                run.latency_millis(50.0),
                run.latency_millis(99.0),
                run.latency_millis(100.0)
            ),
            _ => format!(
                "{:>7} /s; without start and end {:>7} /s; published within {:.2} s, delivered within {:.2} s",
                grouped(run.rate()),
                grouped(run.middle_rate()),
                seconds_between(run.published.first_micros, run.published.last_micros),
                seconds_between(run.published.first_micros, run.received.last_micros)
            ),
        };
        for (count, what) in [
            (run.received.duplicates, "duplicates"),
            (run.received.nameless, "without webhook-id"),
            (run.received.deliveries.abs_diff(expected), "more than expected"),
            (
                run.received.by_target.iter().filter(|count| **count * run.part.fan_out() != expected).count(),
                "targets not with an equal share",
            ),
            (usize::try_from(run.published.refused)?, "answers 429 or 503, tried again"),
        ] {
            if count > 0 {
                let _ = write!(text, "; {count} {what}"); // a String takes all
            }
        }
        if run.published.late_micros > 1_000 && run.part == Part::Latency {
            let _ = write!(text, "; the generator was late by up to {} µs", run.published.late_micros);
        }
        self.line(&text)
    }

    /// A fault's run ended.
    pub(super) fn fault(&mut self, pair: usize, fault: &Fault) -> Result<()> {
        let text = match fault {
            Fault::Hang { without, with } => {
                let of = |received: &Received| {
                    let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percent| received.latency_millis(percent));
                    format!("p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
                };
                format!("hang     ten that answer: {}; nine beside one that hangs: {}", of(without), of(with))
            }
            Fault::Kill { received, until_all } => format!(
                "kill     the longest time without a delivery {:.2} s, all delivered {:.2} s after the kill, {} delivered twice",
                received.gap_micros as f64 / 1e6,
                until_all.as_secs_f64(),
                received.duplicates
            ),
        };
        self.line(&format!("pair {pair}   {text}"))
    }

    /// The tables.
    pub(super) fn end(&mut self, plan: &Plan, stage: &Stage, runs: &[Run], faults: &[Fault]) -> Result<()> {
        self.line("")?;
        if !runs.is_empty() {
            self.rates(plan, runs)?;
            self.latency(plan, runs)?;
        }
        self.faults(plan, faults)?;
        if !runs.is_empty() {
            self.costs(plan, stage, runs)?;
        }
        if let Some(file) = &self.file {
            std::fs::write(file, &self.text).with_context(|| format!("writing `{}`", file.display()))?;
        }
        Ok(())
    }

    fn rates(&mut self, plan: &Plan, runs: &[Run]) -> Result<()> {
        let pairs: String =
            (1..=plan.pairs).fold(String::new(), |all, pair| all + &format!("{:>9}", format!("pair {pair}")));
        self.line(&format!(
            "deliveries/s {pairs}   median   (min to max)     of the floor (min to max)  ship at, aim"
        ))?;
        let floor = of(runs, Part::Floor);
        for part in plan.parts.iter().filter(|part| **part != Part::Latency && !part.is_fault()) {
            let mine = of(runs, *part);
            let rates: Vec<f64> = mine.iter().map(|run| run.rate()).collect();
            let spread = Spread::of(&rates);
            let mut line = format!("{:12} ", part.name());
            for rate in &rates {
                let _ = write!(line, "{:>9}", grouped(*rate)); // a String takes all
            }
            let range = format!("({} to {})", grouped(spread.min), grouped(spread.max));
            let _ = write!(line, "{:>9}   {range:17}", grouped(spread.median));
            if let Some((ship, aim)) = part.goal().filter(|_| !floor.is_empty()) {
                let ratios: Vec<f64> = mine.iter().zip(&floor).map(|(run, floor)| run.rate() / floor.rate()).collect();
                let ratio = Spread::of(&ratios);
                let verdict = if ratio.median >= ship { "met" } else { "not met" };
                let ratios = format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max);
                let _ = write!(line, "{ratios:26} {ship}, {aim}: {verdict}");
            }
            self.line(line.trim_end())?;
        }
        self.line("")
    }

    fn latency(&mut self, plan: &Plan, runs: &[Run]) -> Result<()> {
        let runs = of(runs, Part::Latency);
        if runs.is_empty() {
            return Ok(());
        }
        let at = |percent: f64| Spread::of(&runs.iter().map(|run| run.latency_millis(percent)).collect::<Vec<_>>());
        let (p50, p99, max) = (at(50.0), at(99.0), at(100.0));
        let verdict = if p99.median < P99_GOAL_MILLIS { "met" } else { "not met" };
        self.line(&format!(
            "latency, published over HTTP to received, at {} events/s for {} s, ms: median of {} (min to max)\n\
             p50 {p50}   p99 {p99}   max {max}   ship at p99 under {P99_GOAL_MILLIS}: {verdict}\n",
            plan.rate,
            plan.steady.as_secs(),
            runs.len()
        ))
    }

    fn faults(&mut self, plan: &Plan, faults: &[Fault]) -> Result<()> {
        let of = |fact: &dyn Fn(&Fault) -> Option<f64>| {
            let facts: Vec<f64> = faults.iter().filter_map(fact).collect();
            (!facts.is_empty()).then(|| Spread::of(&facts))
        };
        let hang = |percent: f64, pick: fn((f64, f64)) -> f64| {
            of(&move |fault: &Fault| match fault {
                Fault::Hang { without, with } => {
                    Some(pick((without.latency_millis(percent), with.latency_millis(percent))))
                }
                Fault::Kill { .. } => None,
            })
        };
        if let (Some(p50_without), Some(p50), Some(p99_without), Some(p99)) =
            (hang(50.0, |two| two.0), hang(50.0, |two| two.1), hang(99.0, |two| two.0), hang(99.0, |two| two.1))
        {
            self.line(&format!(
                "hang, {} events/s for ten webhooks, ms: p50 {p50_without}, with one that hangs the other nine's {p50};\n\
                 p99 {p99_without}, then {p99}",
                plan.hang_rate()
            ))?;
        }
        let kill = |pick: fn(&Received, &Duration) -> f64| {
            of(&move |fault: &Fault| match fault {
                Fault::Kill { received, until_all } => Some(pick(received, until_all)),
                Fault::Hang { .. } => None,
            })
        };
        if let (Some(gap), Some(all), Some(twice)) = (
            kill(|received, _| received.gap_micros as f64 / 1e6),
            kill(|_, until_all| until_all.as_secs_f64()),
            kill(|received, _| received.duplicates as f64),
        ) {
            self.line(&format!(
                "kill of the dispatcher under load: without a delivery for {gap} s, all delivered after {all} s, {twice} twice"
            ))?;
        }
        self.line("")
    }

    fn costs(&mut self, plan: &Plan, stage: &Stage, runs: &[Run]) -> Result<()> {
        self.line("CPU seconds per 1,000 deliveries, median; peak memory (VmHWM) of all runs")?;
        let columns = plan
            .parts
            .iter()
            .filter(|part| !part.is_fault())
            .fold(String::new(), |all, part| all + &format!("{:>9}", part.name()));
        self.line(&format!("{:12} {columns}     peak", ""))?;
        let peaks = stage.usage()?;
        let processes = stage.processes();
        let median = |part: Part, cost: &dyn Fn(&Run) -> f64| {
            Spread::of(&of(runs, part).iter().map(|run| cost(run)).collect::<Vec<_>>()).median
        };
        for (number, (name, _)) in processes.iter().enumerate() {
            let cost = |run: &Run| run.per_thousand(run.usage[number].cpu_millis());
            self.row(plan, name, &|part| format!("{:.3}", median(part, &cost)), &mebibytes(peaks[number].peak_bytes))?;
        }
        let publisher = |run: &Run| run.per_thousand(run.published.cpu_millis);
        let peak = |is_floor: bool| {
            runs.iter().filter(|run| (run.part == Part::Floor) == is_floor).map(|run| run.published.peak_bytes).max()
        };
        if let Some(peak) = peak(false) {
            let cost =
                |part: Part| if part == Part::Floor { "-".into() } else { format!("{:.3}", median(part, &publisher)) };
            self.row(plan, "load", &cost, &mebibytes(peak))?;
        }
        if let Some(peak) = peak(true) {
            let cost =
                |part: Part| if part == Part::Floor { format!("{:.3}", median(part, &publisher)) } else { "-".into() };
            self.row(plan, "floor", &cost, &mebibytes(peak))?;
        }
        let all = |run: &Run| {
            run.per_thousand(run.published.cpu_millis + run.usage.iter().map(|usage| usage.cpu_millis()).sum::<u64>())
        };
        self.row(plan, "all", &|part| format!("{:.3}", median(part, &all)), "")?;
        if plan.parts.contains(&Part::Floor) {
            let floor = median(Part::Floor, &all);
            self.row(plan, "floor/this", &|part| format!("{:.2}", floor / median(part, &all)), "")?;
        }
        let bytes = |run: &Run| run.redis_bytes as f64 / run.received.deliveries.max(1) as f64;
        self.row(plan, "Redis bytes", &|part| grouped(median(part, &bytes)), "")?;
        let scripts = |run: &Run| run.redis_scripts as f64 / run.received.deliveries.max(1) as f64;
        self.row(plan, "Redis calls", &|part| format!("{:.2}", median(part, &scripts)), "")?;
        self.line(
            "floor/this: the floor's CPU for a delivery over this one's, which others on this machine disturb less than rates;\n\
             Redis bytes: growth of used_memory per delivery, all of it: log, records, dedup, events; Redis calls: scripts run\n\
             per delivery; load and floor hold all events before they start: most of their memory is that",
        )
    }

    fn row(&mut self, plan: &Plan, name: &str, cell: &dyn Fn(Part) -> String, peak: &str) -> Result<()> {
        let cells = plan
            .parts
            .iter()
            .filter(|part| !part.is_fault())
            .fold(String::new(), |all, part| all + &format!("{:>9}", cell(*part)));
        self.line(format!("{name:12} {cells}{peak:>9}").trim_end())
    }

    fn line(&mut self, text: &str) -> Result<()> {
        self.write(&format!("{text}\n"))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        say(text)
    }
}

fn of(runs: &[Run], part: Part) -> Vec<&Run> {
    runs.iter().filter(|run| run.part == part).collect()
}

/// Least, middle and most of some values.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or_default();
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) };
        Self { min: at(0), median, max: at(values.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.min, self.max)
    }
}

/// A whole number with commas.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = if number < -0.5 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn seconds_between(from_micros: u64, to_micros: u64) -> f64 {
    to_micros.saturating_sub(from_micros) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, expected) in
            [(0.0, "0"), (999.4, "999"), (1_000.0, "1,000"), (1_234_567.8, "1,234,568"), (-1_500.0, "-1,500")]
        {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).to_string(), "2.00 (1.00 to 3.00)");
        assert_eq!(Spread::of(&[4.0, 1.0]).to_string(), "2.50 (1.00 to 4.00)");
    }
}
