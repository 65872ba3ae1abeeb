//! Counters and gauges that may be told apart by tenant. They have the label `tenant` where the operator wants it, and are as
//! any others where not. A process tells so many tenants apart; the others share a value of the label.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use prometheus::{GaugeVec, IntCounterVec, Opts};

use crate::{Counters, shown};

/// So many tenants have a value of their own in a process.
const OWN_VALUES: usize = 200;
/// The label's value of all the others.
pub const OTHER: &str = "other";
const LABEL: &str = "tenant";

/// Who has a value of its own: the first two hundred tenants that a process meets.
#[derive(Clone)]
pub struct Tenants {
    /// None where tenants are not told apart.
    own: Option<Arc<RwLock<HashSet<String>>>>,
}

impl Tenants {
    /// No label tells whose something is.
    pub fn as_one() -> Self {
        Self { own: None }
    }

    /// The label `tenant` does.
    pub fn told_apart() -> Self {
        Self { own: Some(Arc::default()) }
    }

    /// The label's value for this tenant. Where tenants are as one, all are [`OTHER`], at no cost.
    pub fn value<'t>(&self, tenant: &'t str) -> &'t str {
        let Some(own) = &self.own else { return OTHER };
        let full = {
            let own = own.read().unwrap_or_else(PoisonError::into_inner);
            if own.contains(tenant) {
                return tenant;
            }
            own.len() >= OWN_VALUES
        };
        if full {
            return OTHER;
        }
        let mut own = own.write().unwrap_or_else(PoisonError::into_inner);
        if own.len() < OWN_VALUES || own.contains(tenant) {
            own.insert(tenant.to_owned());
            return tenant;
        }
        OTHER
    }

    /// Gives the values of tenants that are gone to others, and returns whose they were.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let Some(own) = &self.own else { return Vec::new() };
        let mut own = own.write().unwrap_or_else(PoisonError::into_inner);
        own.extract_if(|tenant| !is_there(tenant)).collect()
    }

    fn labels<'l>(&self, labels: &[&'l str]) -> Vec<&'l str> {
        labels.iter().copied().chain(self.own.is_some().then_some(LABEL)).collect()
    }
}

/// Counters by their labels' values, and by tenant.
#[derive(Clone)]
pub struct TenantCounters<const N: usize> {
    tenants: Tenants,
    values: Vec<[&'static str; N]>,
    all: IntCounterVec,
    /// Those without a value of their own: all where tenants are as one.
    other: Counters<N>,
    own: Arc<RwLock<HashMap<String, Counters<N>>>>,
}

/// Counters, each at 0 for every one of `values`; of a tenant, once it is met.
pub fn tenant_counters<const N: usize>(
    name: &str,
    help: &str,
    labels: [&str; N],
    values: impl IntoIterator<Item = [&'static str; N]>,
    tenants: &Tenants,
) -> TenantCounters<N> {
    let all = shown(IntCounterVec::new(Opts::new(name, help), &tenants.labels(&labels)));
    let values: Vec<_> = values.into_iter().collect();
    let other = Counters::declare(&all, values.iter().copied(), tenants.own.is_some().then_some(OTHER));
    TenantCounters { tenants: tenants.clone(), values, all, other, own: Arc::default() }
}

impl<const N: usize> TenantCounters<N> {
    /// Counts one of a tenant: allocates where it is met for the first time, else no more than [`Counters::inc`].
    pub fn inc(&self, tenant: &str, values: [&str; N]) {
        let tenant = self.tenants.value(tenant);
        if tenant == OTHER {
            return self.other.inc(values);
        }
        if let Some(own) = self.own.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return own.inc(values);
        }
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        let declare = || Counters::declare(&self.all, self.values.iter().copied(), Some(tenant));
        own.entry(tenant.to_owned()).or_insert_with(declare).inc(values);
    }
}

/// Gauges by their labels' values, and by tenant.
#[derive(Clone)]
pub struct TenantGauges<const N: usize> {
    tenants: Tenants,
    values: Vec<[&'static str; N]>,
    all: GaugeVec,
}

/// Gauges, each at 0 for every one of `values`; of a tenant, once it is set.
pub fn tenant_gauges<const N: usize>(
    name: &str,
    help: &str,
    labels: [&str; N],
    values: impl IntoIterator<Item = [&'static str; N]>,
    tenants: &Tenants,
) -> TenantGauges<N> {
    let all = shown(GaugeVec::new(Opts::new(name, help), &tenants.labels(&labels)));
    let gauges = TenantGauges { tenants: tenants.clone(), values: values.into_iter().collect(), all };
    gauges.values.iter().for_each(|values| gauges.set(OTHER, *values, 0.0));
    gauges
}

impl<const N: usize> TenantGauges<N> {
    /// Sets one of what [`Tenants::value`] gave a tenant.
    pub fn set(&self, tenant: &str, values: [&str; N], to: f64) {
        self.all.with_label_values(&self.with(tenant, &values)).set(to);
    }

    /// Shows nothing more of a tenant.
    pub fn forget(&self, tenant: &str) {
        for values in &self.values {
            let _ = self.all.remove_label_values(&self.with(tenant, values)); // it was perhaps never set
        }
    }

    fn with<'v>(&self, tenant: &'v str, values: &[&'v str; N]) -> Vec<&'v str> {
        values.iter().copied().chain(self.tenants.own.is_some().then_some(tenant)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    /// The series of a family: the labels' values, and its own.
    fn series(name: &str) -> Vec<(String, f64)> {
        let gathered = registry().gather();
        let Some(family) = gathered.iter().find(|family| family.name() == name) else { return Vec::new() };
        let labels = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().map(|label| label.value().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let value = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value() // one of them is 0
        };
        family.get_metric().iter().map(|metric| (labels(metric), value(metric))).collect()
    }

    fn is(name: &str, expected: &[(&str, f64)]) {
        let expected: Vec<_> = expected.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect();
        assert_eq!(series(name), expected);
    }

    #[test]
    fn as_one_nothing_tells_tenants_apart() {
        let tenants = Tenants::as_one();
        let counters = tenant_counters("as_one_total", "A test.", ["way"], [["in"], ["out"]], &tenants);
        counters.inc("acme", ["out"]);
        counters.inc("bolt", ["out"]);
        is("as_one_total", &[("in", 0.0), ("out", 2.0)]);
        let gauges = tenant_gauges("as_one", "A test.", ["way"], [["in"], ["out"]], &tenants);
        gauges.set(tenants.value("acme"), ["in"], 3.0);
        is("as_one", &[("in", 3.0), ("out", 0.0)]);
    }

    #[test]
    fn told_apart_each_tenant_has_all_values_from_its_first() {
        let tenants = Tenants::told_apart();
        let counters = tenant_counters("apart_total", "A test.", ["way"], [["in"], ["out"]], &tenants);
        is("apart_total", &[("other in", 0.0), ("other out", 0.0)]);
        counters.inc("acme", ["out"]);
        counters.inc("acme", ["out"]);
        is("apart_total", &[("acme in", 0.0), ("acme out", 2.0), ("other in", 0.0), ("other out", 0.0)]);
        let gauges = tenant_gauges("apart", "A test.", ["way"], [["in"]], &tenants);
        gauges.set(tenants.value("acme"), ["in"], 3.0);
        is("apart", &[("acme in", 3.0), ("other in", 0.0)]);
        assert_eq!(tenants.keep(|tenant| tenant != "acme"), ["acme"]);
        gauges.forget("acme");
        is("apart", &[("other in", 0.0)]);
    }

    #[test]
    fn past_two_hundred_tenants_the_others_share_a_value() {
        let tenants = Tenants::told_apart();
        let counters = tenant_counters("bounded_total", "A test.", ["way"], [["in"]], &tenants);
        for number in 0..OWN_VALUES + 5 {
            counters.inc(&format!("tenant-{number}"), ["in"]);
        }
        counters.inc("tenant-0", ["in"]);
        let series = series("bounded_total");
        assert_eq!(series.len(), OWN_VALUES + 1);
        assert!(series.contains(&("other in".to_owned(), 5.0)) && series.contains(&("tenant-0 in".to_owned(), 2.0)));
        tenants.keep(|tenant| tenant != "tenant-7");
        assert_eq!((tenants.value("tenant-203"), tenants.value("tenant-204")), ("tenant-203", OTHER));
    }
}
