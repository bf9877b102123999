//! What all routes are built from. No route rejects: a path that is known answers every method, and what no
//! route knows ends in [`not_found`].

use std::convert::Infallible;
use std::future::ready;

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

/// Where the API is: `/api/v1` and its alias `/v1`.
pub const API: Roots = &["/api/v1/", "/v1/"];

/// Where signing in is: `/auth`, also under the API.
pub const AUTH: Roots = &["/auth/", "/api/v1/auth/", "/v1/auth/"];

/// Where nothing else is said.
pub const ROOT: Roots = &["/"];

/// The root, and under the API.
pub const EVERYWHERE: Roots = &["/", "/api/v1/", "/v1/"];

/// What a path begins with, one of these.
pub type Roots = &'static [&'static str];

/// A path below one of the roots, with or without a `/` at its end.
///
/// What is built of `warp::path!` has a type of its own for each path, and building these took most of the time that
/// building this program took. What is built of this has one type.
pub fn at(roots: Roots, pattern: &'static str) -> impl Filter<Extract = (), Error = Rejection> + Copy {
    captured::<0>(roots, pattern).map(|[]: [String; 0]| ()).untuple_one()
}

/// The same with `*` in place of an id.
pub fn at_id(
    roots: Roots,
    pattern: &'static str,
) -> impl Filter<Extract = (String,), Error = Rejection> + Copy {
    captured::<1>(roots, pattern).map(|[id]: [String; 1]| id)
}

/// The same with two ids.
pub fn at_ids(
    roots: Roots,
    pattern: &'static str,
) -> impl Filter<Extract = (String, String), Error = Rejection> + Copy {
    captured::<2>(roots, pattern).map(|[first, second]: [String; 2]| (first, second)).untuple_one()
}

fn captured<const N: usize>(
    roots: Roots,
    pattern: &'static str,
) -> impl Filter<Extract = ([String; N],), Error = Rejection> + Copy {
    warp::path::full().and_then(move |path: FullPath| {
        let below = roots.iter().find_map(|root| captures(pattern, path.as_str().strip_prefix(root)?));
        ready(below.ok_or_else(warp::reject::not_found))
    })
}

/// What stands in a path where its pattern has `*`; `None` where it has another form.
fn captures<const N: usize>(pattern: &str, path: &str) -> Option<[String; N]> {
    let mut segments = path.strip_suffix('/').unwrap_or(path).split('/');
    let mut found = [const { "" }; N];
    let mut next = found.iter_mut();
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        match expected {
            "*" if segment.is_empty() => return None,
            "*" => *next.next()? = segment,
            _ if segment != expected => return None,
            _ => {}
        }
    }
    segments.next().is_none().then(|| found.map(str::to_owned))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_takes_its_own_paths_alone() {
        let none = |pattern, path| captures::<0>(pattern, path).is_some();
        assert!(none("models", "models") && none("models", "models/") && none("a/b", "a/b"));
        for path in ["", "/", "model", "models//", "models/a", "/models", "Models", "models?"] {
            assert!(!none("models", path), "{path}");
        }
        assert_eq!(captures("c/*/items", "c/conv_1/items/"), Some(["conv_1".to_owned()]));
        assert_eq!(captures("c/*/items/*", "c/a%20b/items/d"), Some(["a%20b".to_owned(), "d".to_owned()]));
        for path in ["c//items", "c/items", "c/a/items/b", "c/a/item", "c/a"] {
            assert_eq!(captures::<1>("c/*/items", path), None, "{path}");
        }
        assert_eq!(captures::<1>("c/*", "c/"), None, "an id is never empty");
    }

    proptest! {
        #[test]
        fn what_is_put_in_is_found(id in "[^/]{1,40}", other in "[^/]{1,40}") {
            let path = format!("users/{id}/keys/{other}");
            prop_assert_eq!(captures("users/*/keys/*", &path), Some([id, other]));
            prop_assert_eq!(captures::<1>("users/*/keys", &path), None);
        }
    }
}
