//! docs/metrics.md, made from what the services show: every metric with its kind, labels, their values, buckets and meaning.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context, Result};

/// What stands above this line is written by hand.
const MARK: &str = "<!-- Made from /metrics of running services: `make docs-metrics`. -->\n";
/// Labels whose values are a build's own.
const OF_A_BUILD: [&str; 2] = ["version", "revision"];

/// A metric, as one or several services show it.
#[derive(Default, Clone, PartialEq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
    /// A histogram's bounds, in their order.
    buckets: Vec<String>,
}

impl Family {
    /// The same metric of another service: its values come to ours.
    fn with(mut self, other: &Self) -> Self {
        for (label, values) in &other.labels {
            self.labels.entry(label.clone()).or_default().extend(values.iter().cloned());
        }
        self
    }

    fn row(&self, name: &str) -> String {
        let label = |(label, values): (&String, &BTreeSet<String>)| {
            if OF_A_BUILD.contains(&label.as_str()) {
                return format!("`{label}`");
            }
            let mut values: Vec<&String> = values.iter().collect();
            values.sort_by_key(|value| (value.parse::<u64>().ok(), *value));
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{label}`: {}", values.join(" "))
        };
        let labels: Vec<String> = self.labels.iter().map(label).collect();
        format!("| `{name}` | {} | {} | {} |\n", self.kind, labels.join("; "), self.help.replace('|', "\\|"))
    }
}

/// The metrics of one service's text.
fn families(text: &str) -> Result<BTreeMap<String, Family>> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (named, help) = rest.split_once(' ').context("a metric says what it is")?;
            name = named;
            families.entry(name.to_owned()).or_default().help = help.to_owned();
            continue;
        }
        let family = families.get_mut(name).context("a metric's help comes first")?;
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family.kind = rest.rsplit(' ').next().unwrap_or_default().to_owned();
            continue;
        }
        let (series, _) = line.rsplit_once(' ').context("a sample has a value")?;
        let Some((_, labels)) = series.split_once('{') else { continue };
        for label in labels.trim_end_matches('}').split("\",") {
            let (label, value) = label.split_once("=\"").context("a label has a value")?;
            let value = value.trim_end_matches('"').to_owned();
            if label != "le" {
                family.labels.entry(label.to_owned()).or_default().insert(value);
            } else if !family.buckets.contains(&value) {
                family.buckets.push(value);
            }
        }
    }
    Ok(families)
}

/// The page as it should be: what was written by hand of `now`, and what the services show. Metrics that all have come first.
pub(crate) fn page(now: &str, texts: &[(&str, String)]) -> Result<String> {
    let shown: Vec<(&str, BTreeMap<String, Family>)> =
        texts.iter().map(|(service, text)| Ok((*service, families(text)?))).collect::<Result<_>>()?;
    let mut all = BTreeMap::new();
    for (name, family) in shown.first().context("there are services")?.1.iter() {
        let others: Option<Vec<&Family>> = shown.iter().map(|(_, families)| families.get(name)).collect();
        if let Some(others) = others {
            all.insert(name.clone(), others.into_iter().fold(family.clone(), Family::with));
        }
    }
    let mut text = now.split(MARK).next().unwrap_or_default().to_owned() + MARK;
    let mut buckets: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
    let mut section = |title: &str, families: &mut dyn Iterator<Item = (&String, &Family)>| {
        let _ = write!(text, "\n## {title}\n\n| metric | | labels | |\n|---|---|---|---|\n"); // into a string
        for (name, family) in families {
            text += &family.row(name);
            if !family.buckets.is_empty() {
                buckets.entry(family.buckets.clone()).or_default().insert(name.clone());
            }
        }
    };
    section("Every service", &mut all.iter());
    for (service, families) in &shown {
        let title = service[..1].to_uppercase() + &service[1..];
        section(&title, &mut families.iter().filter(|(name, _)| !all.contains_key(*name)));
    }
    text += "\n## Buckets\n\n| bounds | of |\n|---|---|\n";
    for (bounds, names) in buckets {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "| {} | {} |", bounds.join(" "), names.join(", ")); // into a string
    }
    Ok(text)
}
