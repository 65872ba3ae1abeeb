//! How a webhook is saved: read, changed, tried out where its catalog asks for that, and written on top of exactly what it
//! was judged by.
//!
//! The test on save: the target gets an example of the webhook's first trigger, as the webhook would send it if it were
//! saved, and only the catalog's success saves. Until then nothing of it is stored. What passes is enabled with it.

use axum::http::StatusCode;
use fanfare_bus::ProbeOf;
use fanfare_catalog::Catalog;
use fanfare_domain::{Answer, DeliveryPolicy, FieldError, Outcome, Webhook, job::Held, outcome};
use fanfare_runtime::{Problem, fail_point};
use fanfare_store::{AttemptEntry, Saved, StoredWebhook};
use serde_json::{Map, Value};

use crate::{
    app::{Api, nothing_here},
    auth::{Caller, Manage},
    etag::IfMatch,
    examples,
    probe::{self, Asked},
    problem::{self, invalid},
    webhooks::find,
};

/// How often a change is made again on top of somebody else's.
const TRIES: usize = 32;

/// Whether what is saved is tried out first, where its catalog asks for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    /// Where it goes, or whether, may have changed.
    OnSave,
    /// The target stays as it was tested.
    Never,
}

/// Saves a new webhook.
pub(crate) async fn create(
    api: &Api,
    caller: &Caller<Manage>,
    stored: StoredWebhook,
) -> Result<StoredWebhook, Problem> {
    let stored = match to_test(&caller.catalog, &stored.webhook, Test::OnSave) {
        Some(example) => passed(api, caller, stored, example).await?,
        None => stored,
    };
    match api.tenants.put_webhook(caller.tenant(), &stored, None).await.map_err(problem::store)? {
        Saved::Yes => Ok(stored),
        Saved::Missing => Err(nothing_here()), // its tenant was deleted meanwhile
        Saved::Stale => Err(Problem::unavailable("the id drawn is taken")), // 64 bits of chance: never seen
    }
}

/// Changes a webhook on top of whatever is there, or of exactly what the client saw. What it holds is delivered where this
/// switches it on, or becomes what `held` says; that is done also where nothing is changed.
pub(crate) async fn save(
    api: &Api,
    caller: &Caller<Manage>,
    id: &str,
    if_match: IfMatch,
    test: Test,
    held: Option<Held>,
    change: impl Fn(&StoredWebhook) -> Result<StoredWebhook, Problem>,
) -> Result<StoredWebhook, Problem> {
    let mut config = caller.config.clone();
    for _ in 0..TRIES {
        let known = find(&config, id)?;
        if_match.allows(known.webhook.revision)?;
        let changed = change(known)?;
        if changed == **known && held.is_none() {
            return Ok(changed);
        }
        let example = to_test(&caller.catalog, &changed.webhook, test);
        let is_tested = example.is_some();
        let changed = match example {
            Some(example) => passed(api, caller, changed, example).await?,
            None => changed,
        };
        let expected = Some(known.webhook.revision);
        let saved = api.tenants.save_webhook(caller.tenant(), &changed, expected, held).await;
        let (saved, job) = saved.map_err(problem::store)?;
        fail_point("api.saved");
        if let Some(job) = job {
            api.begin(caller.tenant(), job).await;
        }
        match saved {
            Saved::Yes => return Ok(changed),
            Saved::Missing => return Err(nothing_here()),
            Saved::Stale => {
                let now = api.configuration.now(caller.tenant()).await.map_err(problem::store)?;
                config = now.ok_or_else(nothing_here)?;
                if is_tested {
                    // What was tested is not what would be saved on top of the other's change.
                    if_match.allows(find(&config, id)?.webhook.revision)?;
                    return Err(conflict("it was changed while its target was tested: nothing is saved, try again"));
                }
            }
        }
    }
    Err(conflict("others change this webhook all the time: try again"))
}

fn conflict(why: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, why)
}

/// The event to try a webhook out with before it is saved, where that is to be done. One that its tenant switches off gets
/// no deliveries: there is nothing to try, and it must be possible to switch off what does not answer.
fn to_test(catalog: &Catalog, webhook: &Webhook, test: Test) -> Option<Map<String, Value>> {
    let documented = catalog.test_on_save()?;
    if test == Test::Never || !webhook.active {
        return None;
    }
    let first = webhook.triggers.first().and_then(|trigger| examples::of_trigger(catalog, trigger));
    first.or_else(|| documented.event.as_object().cloned())
}

/// Tries a webhook out: what is to be saved where the target has taken it, enabled.
async fn passed(
    api: &Api,
    caller: &Caller<Manage>,
    stored: StoredWebhook,
    example: Map<String, Value>,
) -> Result<StoredWebhook, Problem> {
    let webhook = &stored.webhook;
    let text = serde_json::to_string(&stored).expect("a stored webhook is texts and numbers");
    let of = ProbeOf::Unsaved { sealed: api.sealer.seal(caller.tenant(), &webhook.id, &text) };
    let Asked { entry, .. } = probe::ask(api, caller, webhook, of, example).await?;
    judged(&entry, &webhook.policy(caller.catalog.policy())).map_err(|why| invalid(vec![why]))?;
    let webhook = Webhook { disabled: None, ..stored.webhook };
    Ok(StoredWebhook { webhook, ..stored })
}

/// Whether an attempt lets its webhook be saved: what came back is told where not.
fn judged(entry: &AttemptEntry, policy: &DeliveryPolicy) -> Result<(), FieldError> {
    let why = match (entry.status, &entry.error) {
        (Some(status), None) => {
            let answer = Answer::Response { status, retry_after: None };
            if outcome(&answer, policy) == Outcome::Accepted {
                return Ok(());
            }
            let saves = match policy.success.as_slice() {
                [] => "2xx".to_owned(),
                some => some.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
            };
            format!("answered a test with status {status}, and only {saves} saves")
        }
        (_, Some(error)) => format!("did not answer a test: {error}"),
        (None, None) => "did not answer a test".to_owned(),
    };
    Err(FieldError::new("target", why))
}

#[cfg(test)]
mod tests {
    use fanfare_store::EntryForm;

    use super::*;

    fn entry(status: Option<u16>, error: Option<&str>) -> AttemptEntry {
        AttemptEntry {
            form: EntryForm::Whole,
            at: 0,
            ms: 1,
            error: error.map(str::to_owned),
            method: "POST".into(),
            url: "https://example.com/?token=hush".into(),
            headers: Vec::new(),
            status,
            answer_headers: Vec::new(),
            answer_body: String::new(),
        }
    }

    #[test]
    fn only_the_catalogs_success_saves_and_what_came_back_is_told() {
        let policy = |success: &[u16]| DeliveryPolicy { success: success.to_vec(), ..DeliveryPolicy::default() };
        for (status, error, success, told) in [
            (Some(200), None, &[200][..], None),
            (Some(204), None, &[], None),
            (Some(204), None, &[200], Some("answered a test with status 204, and only 200 saves")),
            (Some(302), None, &[], Some("answered a test with status 302, and only 2xx saves")),
            (Some(500), None, &[200, 202], Some("answered a test with status 500, and only 200 or 202 saves")),
            (None, Some("no answer within 2 s"), &[200], Some("did not answer a test: no answer within 2 s")),
        ] {
            let why = judged(&entry(status, error), &policy(success)).err();
            assert_eq!(why, told.map(|told| FieldError::new("target", told)), "{status:?} {error:?}");
        }
    }
}
