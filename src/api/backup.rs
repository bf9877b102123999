//! `/admin/export` and `/admin/import`: exports and imports of a running server's store.

use std::io;

use futures_util::{StreamExt, stream::unfold};
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use jan_actors::backup::Counts;
use jan_actors::identity::Right;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use warp::Reply;

use super::{
    respond::{parse_query, private},
    state::{AppState, Route},
};
use crate::auth::access::{Access, Body};
use crate::auth::note;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, Response};

/// Maximum number of body chunks that wait to be checked.
const PIECES: usize = 8;

/// `/admin/export` and `/admin/import`
pub fn routes() -> Vec<Route> {
    vec![
        route!(export, Place::Api, Access::Needs(Right::Administer)).audited("export"),
        route!(import, Place::Api, Access::Needs(Right::Administer)).body(Body::Export).audited("import"),
    ]
}

/// The result of an import.
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    /// Always `import`.
    object: &'static str,
    /// The number of records of each kind.
    #[schema(value_type = Object, example = json!({"user": 2, "key": 3}))]
    records: Counts,
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ImportQuery {
    restore_revoked: Option<String>,
}

/// Export the whole store as lines of JSON (NDJSON).
///
/// The last line has a checksum; an export without it is incomplete. API keys are exported as hashes; the
/// keys that sign tokens are not exported.
#[utoipa::path(
    get,
    path = "/admin/export",
    tag = "admin",
    operation_id = "exportStore",
    params(("user" = Option<String>, Query, description = "Data of this user only: an id, `user_…`")),
    responses(
        (status = 200, description = "The export", content_type = "application/x-ndjson", body = String),
        (status = 404, description = "The user does not exist", body = ErrorResponse),
    )
)]
async fn export(state: AppState, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let user = match parse_query::<Query>(&query)?.user {
        None => None,
        Some(id) => {
            let user = id.parse().map_err(|_| ApiError::not_found("user", &id))?;
            Some(state.identity.user(user).await.map_err(ApiError::from_identity)?.id)
        }
    };
    // The next chunk is read only after the previous one was taken.
    let pieces = unfold(state.backup.export(user), |mut export| async {
        let piece = export.next().await?.map_err(|error| {
            tracing::error!(%error, "an export was interrupted");
            // The connection is closed before the end of the body, and the trailer is missing.
            io::Error::other(error)
        });
        Some((piece, export))
    });
    let mut response = warp::reply::stream(pieces).into_response();
    note(&mut response, |noted| noted.user = user);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let name = "attachment; filename=\"jan-server-export.ndjson\"";
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    Ok(response)
}

/// Import an export.
///
/// Records of the export replace those with the same keys; others remain. Nothing is changed before the whole
/// export is verified. Repeating an import changes nothing more. Keys, sessions, users and share links that
/// were revoked, ended or disabled on this server stay so, unless `restore_revoked` is `true`. An import that
/// would leave no administrator is refused.
#[utoipa::path(
    post,
    path = "/admin/import",
    tag = "admin",
    operation_id = "importStore",
    params(("restore_revoked" = Option<bool>, Query, description = "`true`: revocations made since are replaced by the exported state")),
    request_body(content = String, content_type = "application/x-ndjson", description = "An export"),
    responses(
        (status = 200, description = "The import is complete", body = Imported),
        (status = 400, description = "The body is not an export, or is a damaged or newer one", body = ErrorResponse),
        (status = 409, description = "A record conflicts with an existing one, or no administrator would remain", body = ErrorResponse),
        (status = 507, description = "The disk is full; nothing is imported", body = ErrorResponse),
    )
)]
async fn import(
    state: AppState,
    RawQuery(query): RawQuery,
    request: ApiRequest,
) -> Result<Response, ApiError> {
    let restore_revoked = match parse_query::<ImportQuery>(&query)?.restore_revoked.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            let message = "'restore_revoked' must be `true` or `false`.";
            return Err(ApiError::invalid_value("restore_revoked", message));
        }
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    let timeout = state.config.body_timeout();
    // It owns the sender, so that the channel ends with the body.
    let feed = async move {
        let mut body = std::pin::pin!(request.into_body());
        loop {
            // The limit applies to pauses: the duration of a whole body depends on its size.
            let piece = match tokio::time::timeout(timeout, body.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(bytes))) => Ok(bytes),
                Ok(Some(Err(error))) => Err(error),
                Err(_elapsed) => Err(ApiError::request_timeout(timeout)),
            };
            match piece {
                // If the receiver is gone, the error is already known.
                Ok(bytes) => {
                    if sender.send(Ok(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let _ = sender.send(Err(io::Error::other("the body was interrupted"))).await;
                    return Err(error);
                }
            }
        }
    };
    let (fed, imported) = tokio::join!(feed, state.backup.import(receiver, restore_revoked));
    fed?;
    let records = imported.map_err(ApiError::from_backup)?;
    let mut response = private(StatusCode::OK, &Imported { object: "import", records });
    if restore_revoked {
        note(&mut response, |noted| noted.fields = vec!["restore_revoked"]);
    }
    Ok(response)
}
