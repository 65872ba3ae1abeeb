//! `--check-catalog FILE`: whether a catalog is right, and the requests that its examples make. Needs no settings.

use std::{fmt::Write as _, io::Write as _, path::Path};

use fanfare_catalog::{Catalog, Catalogs};
use fanfare_domain::webhook::PayloadForm;

use crate::app::check_collections;

/// Answers `--check-catalog FILE` and then ends the process: with 0 where the catalog is right, with 1 where it is not.
pub(crate) fn answer(arguments: impl Iterator<Item = String>) {
    let mut arguments = arguments.skip(1).skip_while(|argument| argument != "--check-catalog");
    if arguments.next().is_none() {
        return;
    }
    let checked = match (arguments.next(), arguments.next()) {
        (Some(file), None) => check(Path::new(&file)),
        _ => Err("`--check-catalog` takes one file".to_owned()),
    };
    // Whoever asked may have gone: there is nobody left to tell.
    let _ = match &checked {
        Ok(requests) => std::io::stdout().write_all(requests.as_bytes()),
        Err(why) => writeln!(std::io::stderr(), "{why}"),
    };
    std::process::exit(i32::from(checked.is_err()));
}

/// What is to be said of a right catalog; else what is wrong, as `file:line:column: reason`.
fn check(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let catalog = Catalog::parse(&text).map_err(|error| {
        let place: String =
            [error.line, error.column].into_iter().flatten().map(|number| format!(":{number}")).collect();
        format!("{shown}{place}: {}", error.reason)
    })?;
    let mut catalogs = Catalogs::builtin();
    let catalog = match catalogs.by_digest(catalog.digest()) {
        Some(builtin) => builtin.clone(),
        None => catalogs.join(catalog).map_err(|why| format!("{shown}: {why}"))?,
    };
    check_collections(&catalogs).map_err(|why| format!("{shown}: {why}"))?;
    Ok(requests(&catalog))
}

/// The requests that a catalog's examples make: per event type, example and payload form.
fn requests(catalog: &Catalog) -> String {
    let mut text = String::new();
    let (mut types, mut requests) = (0, 0);
    let own = catalog.event_types().iter().filter(|event_type| !fanfare_domain::event::is_reserved(&event_type.name));
    for event_type in own {
        types += 1;
        if event_type.examples.is_empty() {
            let _ = writeln!(text, "# {}: no example, so nothing was tried\n", event_type.name);
        }
        for (at, example) in event_type.examples.iter().enumerate() {
            for form in [PayloadForm::Full, PayloadForm::Identity].into_iter().filter(|form| catalog.has_payload(*form))
            {
                let _ = writeln!(text, "# {}, example {}, {}\n", event_type.name, at + 1, form.as_str());
                requests += 1;
                let rendered = match catalog.render_example(example, form) {
                    Ok(rendered) => rendered,
                    Err(why) => {
                        let _ = writeln!(text, "no request: {why}\n");
                        continue;
                    }
                };
                let _ = writeln!(text, "POST <target>");
                let content_type = ("content-type", rendered.content_type.as_str());
                let headers = rendered.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let secret = catalog.secret_header().map(|name| (name, "<secret>"));
                for (name, value) in headers.chain([content_type]).chain(secret) {
                    let _ = writeln!(text, "{name}: {value}");
                }
                let _ = writeln!(text, "\n{}\n", String::from_utf8_lossy(&rendered.body));
            }
        }
    }
    let method = match catalog.settable_fields().iter().any(|field| field == "method") {
        true => " The method is the webhook's, POST where it has none.",
        false => "",
    };
    let _ = writeln!(
        text,
        "The catalog `{}` is right: {types} event types, {requests} requests of their examples.{method} Beside these headers \
         every request has `webhook-id`, `webhook-timestamp`, `webhook-signature`, `fanfare-attempt`, \
         `fanfare-first-attempt` and the webhook's own.",
        catalog.name()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_and_form_is_shown_as_it_is_sent() {
        let catalog = Catalog::parse(
            r#"
format: 1
name: shop
description: d
request:
  contentType: application/JSON
  headers: { X-Kind: { jq: .type } }
  body: { full: "{data, type}", identity: .id }
secret: { form: whsec, header: X-Key }
eventTypes:
  - { name: paid, description: d, examples: [{ event: { type: paid, id: e1, data: { z: 1.50 } } }] }
  - { name: sent, description: d }
"#,
        )
        .unwrap();
        let agent = concat!("Fanfare/", env!("CARGO_PKG_VERSION"));
        let head = format!(
            "POST <target>\nuser-agent: {agent}\nx-kind: paid\ncontent-type: application/JSON\nx-key: <secret>\n\n"
        );
        let shown = requests(&catalog);
        let expected = format!(
            "# paid, example 1, full\n\n{head}{{\"data\":{{\"z\":1.5}},\"type\":\"paid\"}}\n\n\
             # paid, example 1, identity\n\n{head}\"e1\"\n\n# sent: no example, so nothing was tried\n\n\
             The catalog `shop` is right: 2 event types, 2 requests of their examples. The method is"
        );
        assert!(shown.starts_with(&expected), "{shown}");
    }
}
