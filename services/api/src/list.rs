//! Queries of lists: which items, in which order, which part of them.

use std::{cmp::Ordering, str::FromStr};

use fanfare_domain::{IdError, Webhook, span};
use fanfare_runtime::Problem;
use fanfare_store::{DeliveryFilter, State};
use serde::Serialize;

use crate::request::Params;

const LIMIT: u64 = 10;
const MAX_LIMIT: u64 = 100;
/// More fields to sort by than a webhook has are a mistake.
const MAX_SORT_FIELDS: usize = 20;

/// A part of a list: the first `limit` items behind the first `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) limit: usize,
    pub(crate) offset: u64,
}

/// What a list says of itself (contract.md, Management API).
#[derive(Debug, Serialize)]
pub(crate) struct Metadata<'a> {
    collection: &'a str,
    limit: usize,
    offset: u64,
    total: usize,
}

impl Window {
    fn of(params: &mut Params) -> Self {
        Self { limit: limit(params), offset: params.number("offset", 0, 0, u64::MAX) }
    }

    /// Of a list that has nothing to ask for but its part.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Params::read(query, &["limit", "offset"]);
        let window = Self::of(&mut params);
        params.finish().map(|()| window)
    }

    pub(crate) fn metadata(self, collection: &str, total: usize) -> Metadata<'_> {
        Metadata { collection, limit: self.limit, offset: self.offset, total }
    }

    pub(crate) fn part<T>(self, items: Vec<T>) -> impl Iterator<Item = T> {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        items.into_iter().skip(offset).take(self.limit)
    }
}

fn limit(params: &mut Params) -> usize {
    usize::try_from(params.number("limit", LIMIT, 1, MAX_LIMIT)).unwrap_or(1)
}

/// Which webhooks, in which order.
#[derive(Debug)]
pub(crate) struct WebhookQuery {
    pub(crate) window: Window,
    sort: Vec<SortBy>,
    /// In lower case.
    name: Option<String>,
    target: Option<String>,
    trigger: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct SortBy {
    compare: Compare,
    descending: bool,
}

type Compare = fn(&Webhook, &Webhook) -> Ordering;

/// The fields that have an order. What is absent comes before all else; texts are in the order of their characters'
/// codes; a list of triggers as a text of them would be.
const SORTABLE: [(&str, Compare); 16] = [
    ("id", |a, b| a.id.cmp(&b.id)),
    ("name", |a, b| a.name.cmp(&b.name)),
    ("description", |a, b| a.description.cmp(&b.description)),
    ("target", |a, b| a.target.as_str().cmp(b.target.as_str())),
    ("method", |a, b| a.method.as_str().cmp(b.method.as_str())),
    ("triggers", |a, b| a.triggers.cmp(&b.triggers)),
    ("payload", |a, b| a.payload.as_str().cmp(b.payload.as_str())),
    ("active", |a, b| a.active.cmp(&b.active)),
    ("version", |_, _| Ordering::Equal),
    ("notifyEmail", |a, b| a.notify_email.cmp(&b.notify_email)),
    ("rateLimit", |a, b| a.rate_limit.cmp(&b.rate_limit)),
    ("maxInFlight", |a, b| a.max_in_flight.cmp(&b.max_in_flight)),
    ("disabled", |a, b| a.disabled.as_ref().map(|d| d.at).cmp(&b.disabled.as_ref().map(|d| d.at))),
    ("revision", |a, b| a.revision.cmp(&b.revision)),
    ("createdAt", |a, b| a.created_at.cmp(&b.created_at)),
    ("updatedAt", |a, b| a.updated_at.cmp(&b.updated_at)),
];

impl WebhookQuery {
    /// `shown`: the fields that the tenant sees, and so may sort by.
    pub(crate) fn parse(query: Option<&str>, shown: &[String]) -> Result<Self, Problem> {
        let mut params = Params::read(query, &["limit", "offset", "sort", "name", "target", "trigger"]);
        let window = Window::of(&mut params);
        let sort = params.optional("sort", |text| sort_by(text, shown));
        let query = Self {
            window,
            sort: sort.filter(|sort| !sort.is_empty()).unwrap_or_else(newest_first),
            name: params.optional("name", |text| Ok(text.to_lowercase())).filter(|name| !name.is_empty()),
            target: params.optional("target", |text| Ok(text.to_owned())),
            trigger: params.optional("trigger", |text| Ok(text.to_owned())),
        };
        params.finish().map(|()| query)
    }

    /// Whether a webhook is asked for: by all that is given.
    pub(crate) fn wants(&self, webhook: &Webhook) -> bool {
        let name = || webhook.name.as_deref().unwrap_or_default().to_lowercase();
        self.name.as_ref().is_none_or(|part| name().contains(part))
            && self.target.as_ref().is_none_or(|target| target == webhook.target.as_str())
            && self.trigger.as_ref().is_none_or(|trigger| webhook.triggers.contains(trigger))
    }

    /// The order of two webhooks; where the fields asked for are equal, their ids', so that pages fit together.
    pub(crate) fn order(&self, a: &Webhook, b: &Webhook) -> Ordering {
        let by_fields = self.sort.iter().map(|by| {
            let ascending = (by.compare)(a, b);
            if by.descending { ascending.reverse() } else { ascending }
        });
        by_fields.fold(Ordering::Equal, Ordering::then).then_with(|| a.id.cmp(&b.id))
    }
}

fn newest_first() -> Vec<SortBy> {
    vec![SortBy { compare: |a, b| a.created_at.cmp(&b.created_at), descending: true }]
}

/// `+name,-createdAt`: a plus that was not encoded arrives as a blank.
fn sort_by(text: &str, shown: &[String]) -> Result<Vec<SortBy>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > MAX_SORT_FIELDS {
        return Err(format!("must be at most {MAX_SORT_FIELDS} fields"));
    }
    let one = |part: &str| {
        let part = part.trim();
        let (descending, name) = match part.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, part.strip_prefix('+').unwrap_or(part)),
        };
        let known = SORTABLE.iter().find(|(field, _)| *field == name && shown.iter().any(|shown| shown == name));
        known.map(|&(_, compare)| SortBy { compare, descending }).ok_or_else(|| {
            let fields = SORTABLE.iter().map(|(field, _)| *field).filter(|field| shown.iter().any(|s| s == field));
            let shown: String = name.chars().take(64).collect();
            format!("no field `{shown}` to sort by: there are {}", fields.collect::<Vec<_>>().join(", "))
        })
    };
    parts.into_iter().map(one).collect()
}

/// Which part of the log, from a cursor on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogPage {
    pub(crate) limit: usize,
    pub(crate) cursor: Option<String>,
}

impl LogPage {
    fn of(params: &mut Params, is_cursor: fn(&str) -> bool) -> Self {
        let cursor = params.optional("cursor", |text| {
            if is_cursor(text) { Ok(text.to_owned()) } else { Err("must be `next` of the page before".to_owned()) }
        });
        Self { limit: limit(params), cursor }
    }

    /// Of the list of events.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Params::read(query, &["limit", "cursor"]);
        let page = Self::of(&mut params, is_place);
        params.finish().map(|()| page)
    }

    /// How many of one event's deliveries lie before this page.
    pub(crate) fn skipped(&self) -> usize {
        self.cursor.as_ref().and_then(|cursor| cursor.rsplit_once('.')?.1.parse().ok()).unwrap_or(0)
    }
}

/// Which deliveries, and which part of them.
pub(crate) fn delivery_query(query: Option<&str>) -> Result<(DeliveryFilter, LogPage), Problem> {
    let known = ["webhook", "event", "eventType", "status", "from", "to", "limit", "cursor"];
    let mut params = Params::read(query, &known);
    let filter = DeliveryFilter {
        webhook: params.optional("webhook", id),
        event: params.optional("event", id),
        event_type: params.optional("eventType", |text| Ok(text.to_owned())),
        state: params.optional("status", state),
        from_ms: params.optional("from", instant),
        to_ms: params.optional("to", instant),
    };
    if let (Some(from), Some(to)) = (filter.from_ms, filter.to_ms)
        && from >= to
    {
        params.wrong("to", "must be later than `from`".to_owned());
    }
    let page = LogPage::of(&mut params, is_place);
    params.finish().map(|()| (filter, page))
}

fn id<T: FromStr<Err = IdError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: IdError| error.to_string())
}

/// A delivery's state by its name in the contract.
const STATES: [(&str, State); 5] = [
    ("pending", State::Pending),
    ("held", State::Held),
    ("delivered", State::Delivered),
    ("failed", State::Failed),
    ("cancelled", State::Cancelled),
];

fn state(text: &str) -> Result<State, String> {
    let known = STATES.iter().find(|(name, _)| *name == text);
    known.map(|&(_, state)| state).ok_or_else(|| format!("must be one of {}", STATES.map(|(name, _)| name).join(", ")))
}

fn instant(text: &str) -> Result<u64, String> {
    // The plus of an offset that was not encoded arrives as a blank.
    let at = span::parse_rfc3339(text).or_else(|| span::parse_rfc3339(&text.replace(' ', "+")));
    at.ok_or_else(|| "must be a time as in RFC 3339, such as 2026-01-31T09:30:00Z".to_owned())
}

/// A place in the log: `<ms>-<number>.<event>.<delivery>`.
fn is_place(text: &str) -> bool {
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.parse::<u64>().is_ok();
    let mut parts = text.splitn(3, '.');
    let entry = parts.next().and_then(|entry| entry.split_once('-'));
    entry.is_some_and(|(ms, seq)| number(ms) && number(seq)) && parts.filter(|part| number(part)).count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_domain::webhook::{Method, PayloadForm};

    const SHOWN: [&str; 8] = ["id", "name", "target", "secret", "version", "triggers", "createdAt", "updatedAt"];

    fn parse(query: &str) -> Result<WebhookQuery, Problem> {
        WebhookQuery::parse(Some(query), &SHOWN.map(str::to_owned))
    }

    fn webhook(id: u8, name: Option<&str>, created_at: u64) -> Webhook {
        Webhook {
            id: fanfare_domain::WebhookId::from_bytes([id; 12]),
            name: name.map(str::to_owned),
            description: None,
            target: "https://example.com/hook?a=1".to_owned().try_into().unwrap(),
            method: Method::Post,
            headers: Vec::new(),
            triggers: vec!["conversation:updated".into(), "response:created".into()],
            filter: None,
            payload: PayloadForm::Full,
            active: true,
            notify_email: None,
            retry_schedule: None,
            rate_limit: None,
            max_in_flight: None,
            disabled: None,
            revision: 1,
            created_at,
            updated_at: created_at,
        }
    }

    #[test]
    fn a_list_is_sorted_as_asked() {
        let all =
            [webhook(1, Some("b"), 30), webhook(2, Some("a"), 30), webhook(3, Some("b"), 20), webhook(4, None, 40)];
        for (query, expected) in [
            ("", [4, 1, 2, 3]),
            ("sort=", [4, 1, 2, 3]),
            ("sort=-createdAt", [4, 1, 2, 3]),
            ("sort=createdAt", [3, 1, 2, 4]),
            ("sort=+createdAt", [3, 1, 2, 4]),
            ("sort=%2BcreatedAt", [3, 1, 2, 4]),
            ("sort=+name", [4, 2, 1, 3]),
            ("sort=name,-createdAt", [4, 2, 1, 3]),
            ("sort=name,+createdAt", [4, 2, 3, 1]),
            ("sort=name,%20createdAt", [4, 2, 3, 1]),
            ("sort=name,%20-createdAt", [4, 2, 1, 3]),
            ("sort=-name,createdAt", [3, 1, 2, 4]),
            ("sort=version,-id", [4, 3, 2, 1]),
        ] {
            let query_ = parse(query).unwrap();
            let mut sorted: Vec<&Webhook> = all.iter().collect();
            sorted.sort_by(|a, b| query_.order(a, b));
            let ids: Vec<String> = sorted.iter().map(|webhook| webhook.id.to_string()[..2].to_owned()).collect();
            assert_eq!(ids, expected.map(|id| format!("{id:02}")), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_sorted_by_is_refused() {
        for sort in ["secret", "colour", "active", "-", "name,", "--name", "NAME", "name;id"] {
            assert!(parse(&format!("sort={sort}")).is_err(), "{sort}");
        }
        assert!(parse(&format!("sort={}", vec!["name"; 21].join(","))).is_err());
    }

    #[test]
    fn a_webhook_is_found_by_all_that_is_given() {
        for (query, found) in [
            ("", true),
            ("name=my%20", true),
            ("name=My+", true),
            ("name=My%20%20", false),
            ("name=WEBHOOK", true),
            ("name=", true),
            ("target=https://example.com/hook?a=1", true),
            ("target=https://example.com/hook", false),
            ("target=", false),
            ("trigger=response:created", true),
            ("trigger=response", false),
            ("trigger=Response:created", false),
            ("name=my&trigger=response:created", true),
            ("name=your&trigger=response:created", false),
        ] {
            assert_eq!(parse(query).unwrap().wants(&webhook(1, Some("My Webhook"), 1)), found, "{query}");
        }
        assert!(!parse("name=x").unwrap().wants(&webhook(1, None, 1)));
    }

    #[test]
    fn a_window_lies_anywhere() {
        let window = |query| Window::parse(Some(query)).unwrap();
        assert_eq!(window(""), Window { limit: 10, offset: 0 });
        assert_eq!(window("limit=2&offset=1").part(vec![1, 2, 3, 4]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(window("offset=18446744073709551615").part(vec![1]).count(), 0);
        for query in ["limit=101", "limit=0", "offset=-1", "offset=x", "page=2"] {
            assert!(Window::parse(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn a_log_query_is_strict() {
        let (filter, page) = delivery_query(Some(
            "status=failed&from=2026-01-31T10:30:00+01:00&to=2026-01-31T09:30:00.001Z&webhook=5ceec43ce1b5b412ba9d0e73&cursor=17-0.1.2",
        ))
        .unwrap();
        assert_eq!((filter.state, filter.to_ms.unwrap() - filter.from_ms.unwrap()), (Some(State::Failed), 1));
        assert_eq!((page.limit, page.skipped()), (10, 2));
        for query in [
            "status=ok",
            "from=yesterday",
            "from=2026-01-31T09:30:00Z&to=2026-01-31T09:30:00Z",
            "webhook=5CEEC43CE1B5B412BA9D0E73",
            "event=1",
            "cursor=x",
            "cursor=17-0",
            "cursor=17-0.1",
            "cursor=17-0.1.-1",
            "cursor=99999999999999999999-0.1.0",
            "cursor=(17-0.1.0",
            "colour=red",
        ] {
            assert!(delivery_query(Some(query)).is_err(), "{query}");
        }
        assert!(LogPage::parse(Some("cursor=17-0.1.0")).is_ok());
        assert!(LogPage::parse(Some("cursor=17-0")).is_err());
    }
}
