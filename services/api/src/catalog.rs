//! What the tenant's catalog has: event types and triggers.

use axum::{
    Json as Answer,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::auth::{Caller, ReadOrManage};

pub(crate) async fn event_types(caller: Caller<ReadOrManage>) -> Response {
    Answer(json!({ "eventTypes": caller.catalog.event_types() })).into_response()
}

pub(crate) async fn triggers(caller: Caller<ReadOrManage>) -> Response {
    Answer(json!({ "triggers": caller.catalog.triggers() })).into_response()
}
