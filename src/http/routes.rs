//! What all routes are built from. No route rejects: a path that is known answers every method, and what no
//! route knows ends in [`not_found`].

use std::convert::Infallible;

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use warp::filters::BoxedFilter;
use warp::filters::path::FullPath;
use warp::{Filter, Rejection, Reply};

use super::{ApiError, Response};

/// `/api/v1` and its alias `/v1`.
pub fn api_v1() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::path("v1").or(warp::path("api").and(warp::path("v1"))).unify()
}

/// `/auth`, also under `/api/v1` and `/v1`.
pub fn auth_path() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::path("auth").or(api_v1().and(warp::path("auth"))).unify()
}

/// The query as it stands; empty where there is none.
pub fn raw_query() -> impl Filter<Extract = (String,), Error = Infallible> + Copy {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

/// GET, and HEAD as GET without the body (RFC 9110 section 9.3.2).
pub fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

/// The other methods of a path: 405 with `Allow`, or that header alone for OPTIONS.
pub fn other_methods<P>(path: P, allow: &'static str) -> BoxedFilter<(Response,)>
where
    P: Filter<Extract = (), Error = Rejection> + Clone + Send + Sync + 'static,
{
    path.and(warp::method())
        .and(warp::path::full())
        .map(move |method: Method, path: FullPath| refuse_method(&method, &path, allow))
        .boxed()
}

/// The same for a path that holds an id.
pub fn other_methods_of<P>(path: P, allow: &'static str) -> BoxedFilter<(Response,)>
where
    P: Filter<Extract = (String,), Error = Rejection> + Clone + Send + Sync + 'static,
{
    path.and(warp::method())
        .and(warp::path::full())
        .map(move |_id, method: Method, path: FullPath| refuse_method(&method, &path, allow))
        .boxed()
}

fn refuse_method(method: &Method, path: &FullPath, allow: &'static str) -> Response {
    if method != Method::OPTIONS {
        return ApiError::method_not_allowed(method.as_str(), path.as_str(), allow).into_response();
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// 404 for whatever is left.
pub fn not_found() -> BoxedFilter<(Response,)> {
    warp::method()
        .and(warp::path::full())
        .map(|method: Method, path: FullPath| {
            ApiError::unknown_url(method.as_str(), path.as_str()).into_response()
        })
        .boxed()
}
