//! What a client gets where its fields are wrong, or something behind us failed.

use axum::http::StatusCode;
use fanfare_bus::PublishError;
use fanfare_domain::FieldError;
use fanfare_runtime::Problem;
use fanfare_store::StoreError;

/// So much of a failure goes to the log: its kind and place, not what was stored.
const LOGGED_CHARS: usize = 160;
/// The most errors told of one request, and the longest name of a field that is repeated to its sender.
const ERRORS: usize = 20;
const FIELD_CHARS: usize = 128;

/// 422: fields are wrong. An answer is never as large as what was wrong could be.
pub(crate) fn invalid(mut errors: Vec<FieldError>) -> Problem {
    errors.truncate(ERRORS);
    for error in &mut errors {
        if let Some((end, _)) = error.field.char_indices().nth(FIELD_CHARS) {
            error.field.truncate(end);
        }
    }
    Problem::invalid(errors)
}

/// Redis failed.
pub(crate) fn store(error: StoreError) -> Problem {
    match error {
        StoreError::Away(_) => Problem::unavailable("Redis is away"),
        StoreError::Lost => Problem::unavailable("Redis has lost its data: the operator has to restore it"),
        StoreError::Odd(why) => {
            let why: String = why.chars().take(LOGGED_CHARS).collect();
            tracing::error!(why, "Redis holds or answers what this version does not understand");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "what is stored cannot be read: it is in the log")
        }
    }
}

/// The broker failed.
pub(crate) fn broker(error: PublishError) -> Problem {
    Problem::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    #[test]
    fn an_answer_is_bounded_whatever_was_wrong() {
        let errors = (0..1_000).map(|n| FieldError::new(format!("{n}{}", "é".repeat(1_000)), "is no field")).collect();
        assert!(serde_json::to_string(&invalid(errors)).unwrap().len() < 20_000);
    }

    #[test]
    fn what_is_away_is_worth_another_try_and_what_is_odd_is_not_told() {
        let away = store(StoreError::Away("10.0.0.7:6379 refused".to_owned()));
        assert!(!serde_json::to_string(&away).unwrap().contains("10.0.0.7"), "where Redis is, is not for tenants");
        for problem in [away, store(StoreError::Lost), broker(PublishError::Refused)] {
            let response = problem.into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["retry-after"], "1");
        }
        let odd = store(StoreError::Odd("whsec_x".to_owned()));
        assert_eq!(odd.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!serde_json::to_string(&odd).unwrap().contains("whsec_x"));
    }
}
