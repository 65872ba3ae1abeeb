//! The description for people: `/docs`, one page made of `/openapi.json`. It holds no script and asks for nothing further, so
//! it reads with a keyboard, on a phone, without a network, and printed.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use crate::app::Api;

/// The page may load nothing, run nothing, send nothing and stand in no frame; its style stands in itself.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /docs`: for everyone.
pub(crate) async fn read(State(api): State<Arc<Api>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, api.docs.clone()).into_response()
}

/// The page of a description (OpenAPI 3.1, as `openapi` makes it).
pub(crate) fn page(document: &Value) -> String {
    let title = text(&document["info"]["title"]);
    let operations = operations(document);
    let mut page = String::new();
    let write = &mut page;
    put(write, format_args!("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"));
    put(write, format_args!("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"));
    put(write, format_args!("<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"));
    put(write, format_args!("<a class=\"skip\" href=\"#main\">To the operations</a>\n<header>\n<h1>{title}</h1>\n"));
    put(write, format_args!("<p>{}</p>\n", prose(&document["info"]["summary"])));
    put(write, format_args!("<p>{}</p>\n", prose(&document["info"]["description"])));
    put(write, format_args!("<p>Version {}. ", text(&document["info"]["version"])));
    put(write, format_args!("For machines: <a href=\"/openapi.json\">openapi.json</a>.</p>\n</header>\n"));
    contents(write, document, &operations);
    put(write, format_args!("<main id=\"main\">\n"));
    for tag in items(&document["tags"]) {
        let name = text(&tag["name"]);
        put(write, format_args!("<section aria-labelledby=\"tag-{name}\">\n<h2 id=\"tag-{name}\">{name}</h2>\n"));
        put(write, format_args!("<p>{}</p>\n", prose(&tag["description"])));
        for one in operations.iter().filter(|one| one.operation["tags"][0] == tag["name"]) {
            operation(write, document, one);
        }
        put(write, format_args!("</section>\n"));
    }
    put(write, format_args!("<section aria-labelledby=\"schemas\">\n<h2 id=\"schemas\">Schemas</h2>\n"));
    for (name, schema) in fields(&document["components"]["schemas"]) {
        put(write, format_args!("<article id=\"schema-{name}\">\n<h3>{}</h3>\n", escaped(name)));
        described(write, schema);
        put(write, format_args!("</article>\n"));
    }
    put(write, format_args!("</section>\n</main>\n</body>\n</html>\n"));
    page
}

struct Operation<'d> {
    path: &'d str,
    method: &'d str,
    operation: &'d Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = fields(&document["paths"]);
    paths
        .flat_map(|(path, methods)| {
            fields(methods).map(move |(method, operation)| Operation { path, method, operation })
        })
        .collect()
}

fn contents(write: &mut String, document: &Value, operations: &[Operation<'_>]) {
    put(write, format_args!("<nav aria-label=\"Contents\">\n"));
    for tag in items(&document["tags"]) {
        put(write, format_args!("<details><summary>{}</summary>\n<ul>\n", text(&tag["name"])));
        for one in operations.iter().filter(|one| one.operation["tags"][0] == tag["name"]) {
            let id = text(&one.operation["operationId"]);
            put(write, format_args!("<li><a href=\"#{id}\">{}</a></li>\n", prose(&one.operation["summary"])));
        }
        put(write, format_args!("</ul></details>\n"));
    }
    put(write, format_args!("<p><a href=\"#schemas\">Schemas</a></p>\n</nav>\n"));
}

fn operation(write: &mut String, document: &Value, one: &Operation<'_>) {
    let Operation { path, method, operation } = one;
    put(write, format_args!("<article id=\"{}\">\n", text(&operation["operationId"])));
    put(write, format_args!("<h3>{}</h3>\n", prose(&operation["summary"])));
    put(write, format_args!("<p class=\"call\"><code><b>{}</b> {}</code></p>\n", method.to_uppercase(), escaped(path)));
    put(write, format_args!("<p>{}</p>\n", prose(&operation["description"])));
    let key = items(&operation["security"]).next().and_then(|security| fields(security).next());
    let who = key.map_or("none is needed.".to_owned(), |(name, _)| {
        prose(&document["components"]["securitySchemes"][name]["description"])
    });
    put(write, format_args!("<p>Key: {who}</p>\n"));
    let mut parameters = items(&operation["parameters"]).peekable();
    if parameters.peek().is_some() {
        put(write, format_args!("<h4>Parameters</h4>\n<dl>\n"));
        for parameter in parameters {
            let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
            put(
                write,
                format_args!("<dt><code>{name}</code> <small>{place}, {}</small></dt>\n", kind(&parameter["schema"])),
            );
            put(write, format_args!("<dd>{}{}</dd>\n", prose(&parameter["description"]), bounds(&parameter["schema"])));
        }
        put(write, format_args!("</dl>\n"));
    }
    if let Some(body) = operation.get("requestBody") {
        let may = if body["required"] == true { "" } else { " (may be left out)" };
        put(write, format_args!("<h4>Body{may}</h4>\n"));
        described(write, &body["content"]["application/json"]["schema"]);
    }
    put(write, format_args!("<h4>Answers</h4>\n<dl>\n"));
    for (status, response) in fields(&operation["responses"]) {
        let response = match response["$ref"].as_str() {
            Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or(response),
            None => response,
        };
        let schema = fields(&response["content"]).next().map(|(_, content)| &content["schema"]);
        let schema = schema.map(kind).unwrap_or_default();
        put(write, format_args!("<dt><code>{status}</code> <small>{schema}</small></dt>\n"));
        let headers = fields(&response["headers"]).map(|(name, _)| format!(" <code>{name}</code>")).collect::<String>();
        put(write, format_args!("<dd>{}{headers}</dd>\n", prose(&response["description"])));
    }
    put(write, format_args!("</dl>\n</article>\n"));
}

/// A schema in full: its own words, and its fields.
fn described(write: &mut String, schema: &Value) {
    put(write, format_args!("<p><small>{}</small> {}</p>\n", kind(schema), prose(&schema["description"])));
    let properties = schema["properties"].as_object();
    let Some(properties) = properties.filter(|properties| !properties.is_empty()) else { return };
    let required: Vec<&Value> = items(&schema["required"]).collect();
    put(write, format_args!("<dl>\n"));
    for (name, field) in properties {
        let must = if required.iter().any(|known| *known == name) { "" } else { ", may be absent" };
        put(write, format_args!("<dt><code>{}</code> <small>{}{must}</small></dt>\n<dd>", escaped(name), kind(field)));
        put(write, format_args!("{}{}", prose(&field["description"]), bounds(field)));
        if field.get("properties").is_some() {
            described(
                write,
                &Value::Object(Map::from_iter([
                    ("properties".to_owned(), field["properties"].clone()),
                    ("required".to_owned(), field["required"].clone()),
                ])),
            );
        }
        put(write, format_args!("</dd>\n"));
    }
    put(write, format_args!("</dl>\n"));
}

/// What a value is, in a few words; a named schema as a link to it.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("<code>{}</code>", escaped(&value.to_string())))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return format!("<code>{}</code>", escaped(&value.to_string()));
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let one = |name: &str| match name {
        "array" if schema.get("items").is_some() => format!("list of {}", kind(&schema["items"])),
        "string" if schema["format"] == "date-time" => "time".to_owned(),
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        other => escaped(other),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(one).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    }
}

/// A value's bounds and default, where it has some.
fn bounds(schema: &Value) -> String {
    let known = [
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("maxLength", "characters at most"),
        ("maxItems", "items at most"),
        ("maxProperties", "entries at most"),
        ("pattern", "as in"),
        ("default", "else"),
    ];
    let told = known.iter().filter_map(|(key, words)| {
        let value = schema.get(key)?;
        Some(format!("{words} <code>{}</code>", escaped(&value.as_str().map_or(value.to_string(), str::to_owned))))
    });
    let told = told.collect::<Vec<_>>().join(", ");
    if told.is_empty() { told } else { format!(" <small>({told})</small>") }
}

fn put(write: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = write.write_fmt(what); // a String takes all
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

/// Words, in which backticks stand around code.
fn prose(value: &Value) -> String {
    let mut html = String::new();
    for (at, part) in value.as_str().unwrap_or_default().split('`').enumerate() {
        if at % 2 == 1 {
            put(&mut html, format_args!("<code>{}</code>", escaped(part)));
        } else {
            html += &escaped(part);
        }
    }
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --link: light-dark(#0550ae, #79b8ff); }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; overflow-wrap: anywhere; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; background: Canvas; padding: .5rem; }
nav { border-block: 1px solid var(--line); padding-block: .5rem; columns: 16rem; }
nav details { break-inside: avoid; }
summary { cursor: pointer; padding-block: .4rem; }
nav ul { margin: 0; padding-left: 1.5rem; }
nav li { padding-block: .2rem; }
article { border: 1px solid var(--line); border-radius: .5rem; margin-block: 1rem; padding: .25rem 1rem; }
:target { border-color: var(--link); }
code { background: var(--soft); border-radius: .25rem; padding: .1em .3em; font-size: .9em; }
.call code { display: block; padding: .5rem; }
dl { display: grid; grid-template-columns: minmax(10rem, 1fr) 2fr; gap: .25rem 1rem; margin: 0 0 1rem; }
dd { margin: 0; }
small { opacity: .85; }
@media (max-width: 40rem) { dl { display: block; } dd { margin: 0 0 .5rem 1rem; } }
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn built() -> (Value, String) {
        let document = crate::openapi::document(&BTreeSet::from(["webhooks"]));
        let page = page(&document);
        (document, page)
    }

    #[test]
    fn every_operation_and_schema_stands_on_the_page_and_every_link_leads_there() {
        let (document, page) = built();
        for one in operations(&document) {
            assert!(
                page.contains(&format!("id=\"{}\"", one.operation["operationId"].as_str().unwrap())),
                "{}",
                one.path
            );
        }
        let mut links = 0;
        for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link} leads nowhere");
            links += 1;
        }
        assert!(links > 100, "{links}");
    }

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let (_, page) = built();
        for outside in ["<script", "src=", "@import", "url(", "http://", "https://", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("name=\"viewport\"") && page.contains("lang=\"en\""));
    }

    #[test]
    fn words_are_never_markup() {
        let words = Value::from("a `<b>` & \"c\"");
        assert_eq!(prose(&words), "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;");
    }
}
