//! `/api/swagger`: Swagger UI from the binary, and the description in its machine-readable forms.

use std::io::Read;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION,
    REFERRER_POLICY, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use utoipa_swagger_ui::Config;
use warp::Reply;

use super::common::EXAMPLE_ORIGIN;
use super::document;
use crate::api::state::{AppState, Route};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Authority, Id, Place, route};
use crate::http::{ApiError, ApiRequest, Response};

/// The path of the page.
pub const PAGE: &str = "/api/swagger/index.html";

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const HTML: &str = "text/html; charset=utf-8";

/// The page loads nothing from other origins, runs only its own scripts, and connects only to this server. Swagger UI
/// sets inline styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static AS_JSON: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string(&document()).expect("the description serializes"));
static AS_YAML: LazyLock<String> =
    LazyLock::new(|| yaml_serde::to_string(&document()).expect("the description serializes"));

/// Returns the routes of `/api/swagger` and below, and of `/`, which redirects there.
pub fn routes() -> Vec<Route> {
    vec![
        route!(to_page, Place::Root, Access::Open),
        route!(to_page_from_folder, Place::Root, Access::Open),
        route!(page, Place::Root, Access::Open),
        route!(as_json, Place::Root, Access::Open),
        route!(as_json_by_old_name, Place::Root, Access::Open),
        route!(as_yaml, Place::Root, Access::Open),
        route!(file, Place::Root, Access::Open),
    ]
}

/// Redirects to the API page.
#[utoipa::path(
    get,
    path = "/",
    tag = "docs",
    operation_id = "openRoot",
    responses((status = 302, description = "The API page"))
)]
async fn to_page() -> Response {
    let mut response = StatusCode::FOUND.into_response();
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(PAGE));
    response
}

/// Redirects to the API page.
#[utoipa::path(
    get,
    path = "/api/swagger",
    tag = "docs",
    operation_id = "openSwagger",
    responses((status = 302, description = "The API page"))
)]
async fn to_page_from_folder() -> Response {
    to_page().await
}

fn content(media_type: &'static str, body: Bytes) -> Response {
    let mut response: Response = http::Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The interactive API page.
#[utoipa::path(
    get,
    path = "/api/swagger/index.html",
    tag = "docs",
    operation_id = "getSwaggerPage",
    responses((status = 200, description = "Swagger UI", body = String, content_type = "text/html"))
)]
async fn page() -> Response {
    let mut response = content(HTML, Bytes::from_static(include_bytes!("swagger_ui/index.html")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The description as JSON.
#[utoipa::path(
    get,
    path = "/api/swagger/openapi.json",
    tag = "docs",
    operation_id = "getDescription",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
async fn as_json(state: AppState, authority: Authority, request: ApiRequest) -> Response {
    content(JSON, at_origin(&AS_JSON, &origin(&state, &authority, request.headers())))
}

/// The description as JSON, under the name that older tools expect.
#[utoipa::path(
    get,
    path = "/api/swagger/doc.json",
    tag = "docs",
    operation_id = "getDescriptionByOldName",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
async fn as_json_by_old_name(state: AppState, authority: Authority, request: ApiRequest) -> Response {
    as_json(state, authority, request).await
}

/// The description as YAML.
#[utoipa::path(
    get,
    path = "/api/swagger/openapi.yaml",
    tag = "docs",
    operation_id = "getDescriptionAsYaml",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/yaml"))
)]
async fn as_yaml(state: AppState, authority: Authority, request: ApiRequest) -> Response {
    content(YAML, at_origin(&AS_YAML, &origin(&state, &authority, request.headers())))
}

/// Returns the origin of this server as its clients see it: the configured one, or the one that the request was sent to.
fn origin(state: &AppState, Authority(authority): &Authority, headers: &HeaderMap) -> String {
    if let Some(origin) = state.google.own_origin() {
        return origin;
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = authority.as_deref().or_else(|| header(HOST.as_str())).filter(|host| is_host(host));
    // A proxy in front, which alone knows of TLS, says so.
    let scheme = header("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    host.map_or_else(|| EXAMPLE_ORIGIN.to_owned(), |host| format!("{scheme}://{host}"))
}

/// Returns whether the text can be the host of an address, with or without a port.
fn is_host(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (1..=255).contains(&text.len()) && text.bytes().all(plain)
}

/// Returns the description with the addresses of this server at `origin`.
fn at_origin(description: &str, origin: &str) -> Bytes {
    let (from, to) = (format!("{EXAMPLE_ORIGIN}/auth/"), format!("{origin}/auth/"));
    description.replace(&from, &to).into()
}

/// The files of the API page.
#[utoipa::path(
    get,
    path = "/api/swagger/{file}",
    tag = "docs",
    operation_id = "getSwaggerFile",
    params(("file" = String, Path, description = "A script, a style sheet or a picture", example = "swagger-ui.css")),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/css"), (String = "text/javascript"), (String = "image/png"),
        )),
        (status = 404, description = "The page has no such file", body = ErrorResponse),
    )
)]
async fn file(Id(name): Id, request: ApiRequest) -> Result<Response, ApiError> {
    file_of_page(&name, request.headers())
}

fn file_of_page(name: &str, asked: &HeaderMap) -> Result<Response, ApiError> {
    match name {
        "page.js" => {
            return Ok(content(
                "text/javascript; charset=utf-8",
                Bytes::from_static(include_bytes!("swagger_ui/page.js")),
            ));
        }
        "page.css" => {
            return Ok(content(
                "text/css; charset=utf-8",
                Bytes::from_static(include_bytes!("swagger_ui/page.css")),
            ));
        }
        _ => {}
    }
    let media_type = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "png")) => "image/png",
        _ => return Err(ApiError::not_found("file", name)),
    };
    let found = utoipa_swagger_ui::serve(name, Arc::new(Config::from(PAGE))).ok().flatten();
    let found = found.ok_or_else(|| ApiError::not_found("file", name))?;
    let (stored, body) = match found.bytes {
        std::borrow::Cow::Borrowed(bytes) => (found.gzpipped, Bytes::from_static(bytes)),
        // Only Swagger UI's own initializer is generated, and the page uses another one.
        std::borrow::Cow::Owned(_) => return Err(ApiError::not_found("file", name)),
    };
    let mut response = match stored {
        true if takes_gzip(asked) => {
            let mut response = content(media_type, body);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        true => {
            let mut plain = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut plain).map_err(|_| ApiError::internal())?;
            content(media_type, plain.into())
        }
        false => content(media_type, body),
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    // The files change only with the server's version.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0);
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (line, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.0, br", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(line))]);
            assert_eq!(takes_gzip(&headers), takes, "{line}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn the_page_has_all_its_files() {
        let html = include_str!("swagger_ui/index.html");
        let names = html.split("\"./").skip(1).map(|rest| rest.split('"').next().unwrap());
        let names: Vec<&str> = names.collect();
        assert!(names.len() >= 5, "{names:?}");
        for name in names {
            let response = file_of_page(name, &HeaderMap::new()).unwrap();
            assert_eq!(response.status(), 200, "{name}");
            assert!(!response.headers().contains_key(CONTENT_ENCODING), "{name}");
        }
        assert!(file_of_page("index.html.gz", &HeaderMap::new()).is_err());
        assert!(file_of_page("swagger-initializer.js", &HeaderMap::new()).is_err());
    }
}
