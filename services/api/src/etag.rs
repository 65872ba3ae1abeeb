//! Revisions: each answer carries one as its `ETag`, and a change can insist on it with `If-Match` (RFC 9110 13.1.1).

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use fanfare_runtime::Problem;

/// A revision as a header's value.
pub(crate) fn etag(revision: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes are a header's value")
}

/// What a client insists on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// Nothing: the change is made on top of whatever is there.
    Any,
    /// One of these revisions, as written.
    OneOf(Vec<String>),
}

impl IfMatch {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut tags = Vec::new();
        for value in headers.get_all(header::IF_MATCH) {
            tags.extend(value.to_str().unwrap_or("?").split(',').map(|tag| tag.trim().to_owned()));
        }
        // Whatever is there is at a revision: `*` asks no more than that.
        if tags.is_empty() || tags.iter().any(|tag| tag == "*") { Self::Any } else { Self::OneOf(tags) }
    }

    /// Whether what is at this revision may be changed.
    pub(crate) fn allows(&self, revision: u64) -> Result<(), Problem> {
        let now = format!("\"{revision}\"");
        match self {
            Self::OneOf(tags) if !tags.contains(&now) => {
                Err(Problem::new(StatusCode::PRECONDITION_FAILED, format!("it has changed: its `ETag` is now {now}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_insists_on_what_it_saw() {
        for (sent, allowed) in [
            (&[][..], true),
            (&["\"3\""], true),
            (&["*"], true),
            (&["\"1\", \"3\""], true),
            (&["\"1\"", "\"3\""], true),
            (&["\"2\""], false),
            (&["W/\"3\""], false), // If-Match compares strongly
            (&["3"], false),
            (&[""], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(header::IF_MATCH, HeaderValue::from_static(value));
            }
            assert_eq!(IfMatch::of(&headers).allows(3).is_ok(), allowed, "{sent:?}");
        }
        assert_eq!(etag(3), "\"3\"");
    }
}
