//! What to run: the parts, how many deliveries, how many pairs.
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const HELP: &str = "\
fanfare-bench: what Fanfare takes, beside the floor (before it: cargo build --profile dist --workspace --bins)

  --only LIST        parts, comma-separated, of: floor http batch amqp http10 batch10 amqp10 latency hang kill
                     (all)
  --deliveries N     of a run (50000)
  --pairs N          how often each part runs, in turn with the floor (5)
  --connections N    kept connections of single requests (1000)
  --batchers N       kept connections that send batches of 100 (8)
  --in-flight N      unconfirmed messages over AMQP and in each queue of the floor (1000)
  --posts N          the floor's requests under way, and each webhook's `maxInFlight` (1000)
  --rate N           events per second of the latency part (200)
  --seconds N        how long the latency part takes, and each half of the part `hang`, at a quarter of the rate (20)
  --keep FILE        writes the report to a file too
  --logs FOLDER      keeps the logs of all processes; else their ends are printed where a run fails
  --set NAME=VALUE   a setting of the services, FANFARE_<SECTION>__<KEY>; repeated as wanted

The same in the environment: BENCH='--only http,floor --deliveries 20000 --pairs 1'.
";

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// The floor.
    Floor,
    /// Single requests, one webhook.
    Http,
    /// Batches of 100, one webhook.
    Batch,
    /// The ingest exchange, one webhook.
    Amqp,
    /// Single requests, ten webhooks.
    Http10,
    /// Batches of 100, ten webhooks.
    Batch10,
    /// The ingest exchange, ten webhooks.
    Amqp10,
    /// Single requests at a steady rate, one webhook.
    Latency,
    /// Ten webhooks at a steady rate, then ten of which one never answers.
    Hang,
    /// Single requests, one webhook; amid them the dispatcher is killed and started again.
    Kill,
}

impl Part {
    pub(super) const ALL: [Self; 10] = [
        Self::Floor,
        Self::Http,
        Self::Batch,
        Self::Amqp,
        Self::Http10,
        Self::Batch10,
        Self::Amqp10,
        Self::Latency,
        Self::Hang,
        Self::Kill,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Http => "http",
            Self::Batch => "batch",
            Self::Amqp => "amqp",
            Self::Http10 => "http10",
            Self::Batch10 => "batch10",
            Self::Amqp10 => "amqp10",
            Self::Latency => "latency",
            Self::Hang => "hang",
            Self::Kill => "kill",
        }
    }

    /// Whether it is measured by rates, or tells what a fault costs.
    pub(super) fn is_fault(self) -> bool {
        matches!(self, Self::Hang | Self::Kill)
    }

    /// Webhooks that want each event.
    pub(super) fn fan_out(self) -> usize {
        match self {
            Self::Http10 | Self::Batch10 | Self::Amqp10 | Self::Hang => 10,
            Self::Floor | Self::Http | Self::Batch | Self::Amqp | Self::Latency | Self::Kill => 1,
        }
    }

    /// The share of the floor's rate to ship at, and where we are going (issue 3).
    pub(super) fn goal(self) -> Option<(f64, f64)> {
        match self {
            Self::Http | Self::Batch => Some((0.7, 1.5)),
            Self::Amqp => Some((0.6, 1.5)),
            Self::Http10 | Self::Batch10 | Self::Amqp10 => Some((1.5, 3.0)),
            Self::Floor | Self::Latency | Self::Hang | Self::Kill => None,
        }
    }
}

/// What was asked on the command line.
#[derive(Debug)]
pub(super) enum Asked {
    Help,
    Run(Box<Plan>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    pub(super) deliveries: usize,
    pub(super) pairs: usize,
    pub(super) connections: usize,
    pub(super) batchers: usize,
    pub(super) in_flight: u16,
    pub(super) posts: usize,
    pub(super) rate: u32,
    pub(super) steady: Duration,
    pub(super) keep: Option<PathBuf>,
    pub(super) logs: Option<PathBuf>,
    pub(super) settings: Vec<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            parts: Part::ALL.into(),
            deliveries: 50_000,
            pairs: 5,
            connections: 1000,
            batchers: 8,
            in_flight: 1000,
            posts: 1000,
            rate: 200,
            steady: Duration::from_secs(20),
            keep: None,
            logs: None,
            settings: Vec::new(),
        }
    }
}

impl Plan {
    pub(super) fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked> {
        let mut plan = Self::default();
        while let Some(flag) = words.next() {
            if matches!(flag.as_str(), "-h" | "--help" | "help") {
                return Ok(Asked::Help);
            }
            let value = words.next().with_context(|| format!("`{flag}` wants a value; --help lists the flags"))?;
            let number = || value.parse().ok().filter(|number| *number > 0);
            let number = || number().with_context(|| format!("`{flag} {value}` is no number from 1"));
            match flag.as_str() {
                "--only" => plan.parts = parts(&value)?,
                "--deliveries" => plan.deliveries = number()?,
                "--pairs" => plan.pairs = number()?,
                "--connections" => plan.connections = number()?,
                "--batchers" => plan.batchers = number()?,
                "--in-flight" => plan.in_flight = number()?.try_into().context("at most 65535 in flight")?,
                "--posts" => plan.posts = number()?,
                "--rate" => plan.rate = number()?.try_into()?,
                "--seconds" => plan.steady = Duration::from_secs(number()?.try_into()?),
                "--keep" => plan.keep = Some(value.into()),
                "--logs" => plan.logs = Some(value.into()),
                "--set" => {
                    let (name, value) = value.split_once('=').context("`--set` wants NAME=VALUE")?;
                    plan.settings.push((name.into(), value.into()));
                }
                _ => bail!("`{flag}` is no flag; --help lists them"),
            }
        }
        ensure!(plan.posts <= 1_000, "a webhook's `maxInFlight` is at most 1000");
        Ok(Asked::Run(Box::new(plan)))
    }

    pub(super) fn needs_fanfare(&self) -> bool {
        self.parts.iter().any(|part| *part != Part::Floor)
    }

    /// Events per second of the part `hang`, each for ten webhooks.
    pub(super) fn hang_rate(&self) -> u32 {
        self.rate.div_ceil(4)
    }

    /// How many events a run of this part publishes.
    pub(super) fn events(&self, part: Part) -> usize {
        match part {
            Part::Latency => self.rate as usize * self.steady.as_secs() as usize,
            Part::Hang => self.hang_rate() as usize * self.steady.as_secs() as usize,
            _ => self.deliveries.div_ceil(part.fan_out()),
        }
    }
}

/// In the order of [`Part::ALL`]: the floor comes before what is compared with it.
fn parts(list: &str) -> Result<Vec<Part>> {
    for name in list.split(',') {
        ensure!(Part::ALL.iter().any(|part| part.name() == name), "`{name}` is no part; --help lists them");
    }
    Ok(Part::ALL.into_iter().filter(|part| list.split(',').any(|name| name == part.name())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked> {
        Plan::parse(line.split_whitespace().map(ToOwned::to_owned))
    }

    #[test]
    fn flags_go_over_the_defaults() {
        let Asked::Run(plan) = parse("--only http,floor --deliveries 20000 --pairs 1").unwrap() else {
            panic!("a run")
        };
        let expected = Plan { parts: vec![Part::Floor, Part::Http], deliveries: 20_000, pairs: 1, ..Plan::default() };
        assert_eq!(*plan, expected);
        assert!(matches!(parse("--help").unwrap(), Asked::Help));
        for bad in ["--only htp", "--pairs 0", "--pairs", "--in-flight 70000", "--what 1", "--posts 2000", "--set A"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fan_out_shares_the_deliveries_among_fewer_events() {
        let plan = Plan { deliveries: 1_001, ..Plan::default() };
        assert_eq!([Part::Floor, Part::Http, Part::Amqp10].map(|part| plan.events(part)), [1_001, 1_001, 101]);
        assert_eq!(plan.events(Part::Latency), 4_000);
    }
}
