//! Routes as they are counted (operations.md, Metrics): by what they are about, for each route of its own would make more
//! series than a pod may have.

/// Routes of tenants' keys, and of the operator's.
const KEYS: &str = "/v1/keys";
/// Routes of webhooks, whatever a catalog calls them.
const WEBHOOKS: &str = "/v1/webhooks";
/// What waits for a receiver.
const PING: &str = "/v1/webhooks/{id}/ping";
/// Descriptions.
const DOCS: &str = "/docs";

/// All labels, but for `none`.
pub(crate) const ROUTES: [&str; 10] = [
    "/v1/tenants",
    KEYS,
    "/v1/event-types",
    "/v1/triggers",
    "/v1/deliveries",
    "/v1/events",
    "/v1/filters",
    WEBHOOKS,
    PING,
    DOCS,
];

/// The label of a registered route.
pub(crate) fn label(route: &str) -> &'static str {
    if route == "/openapi.json" || route == DOCS {
        DOCS
    } else if route.contains("/keys") {
        KEYS
    } else if route.ends_with("/ping") {
        PING
    } else {
        let of =
            |known: &&&str| route == **known || route.strip_prefix(**known).is_some_and(|rest| rest.starts_with('/'));
        ROUTES.iter().find(of).copied().unwrap_or(WEBHOOKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_counts_under_what_it_is_about_and_a_catalogs_own_name_under_webhooks() {
        for (route, counted) in [
            ("/v1/tenants", "/v1/tenants"),
            ("/v1/tenants/{id}", "/v1/tenants"),
            ("/v1/tenants/{id}/keys/{key}", KEYS),
            ("/v1/events/{event}/explain", "/v1/events"),
            ("/v1/event-types", "/v1/event-types"),
            ("/v1/subscriptions/{id}/ping", PING),
            ("/v1/subscriptions", WEBHOOKS),
            ("/openapi.json", DOCS),
        ] {
            assert_eq!(label(route), counted, "{route}");
        }
    }
}
