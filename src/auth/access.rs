//! Who may call what: the one table. The edge looks every request up here before any route sees it, and
//! a path that is not in the table is 404, so that no route can be open by being forgotten. A test holds the
//! table against the API's description.

use http::Method;
use jan_actors::identity::Right;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone, and no bucket pays for it: probes come every few seconds.
    Probe,
    /// Everyone.
    Open,
    /// Everyone; the request proves by itself who it is from, by a refresh token or an expired JWT.
    Proof,
    /// Anonymous callers where `auth.anonymous` lets them, and principals with this right.
    Anonymous(Right),
    /// Principals with this right.
    Needs(Right),
}

/// Where a path lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As it stands.
    Root,
    /// Under `/api/v1` and its alias `/v1`.
    Api,
    /// Under both of these and as it stands: the paths of signing in.
    Both,
}

/// The body that a route takes, if it takes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// JSON, small: about users, keys, sessions and the like.
    #[default]
    Account,
    /// JSON with a model's input.
    Inference,
    /// JSON with a conversation's items.
    Items,
    /// An export: lines of JSON, which are read as they come.
    Export,
}

/// What the audit log says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The action, one of [`ACTIONS`](jan_actors::audit::ACTIONS), where its handler notes no other.
    pub action: &'static str,
    /// In which way, where there are several.
    pub how: Option<&'static str>,
}

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    /// GET stands for HEAD too.
    pub method: Method,
    /// Where [`Self::path`] begins.
    pub place: Place,
    /// `{id}` is one segment, `{id...}` is all that follows.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Whether a model works for it.
    pub inference: bool,
    /// The body that it takes.
    pub body: Body,
    /// What the audit log says of it, where it changes accounts, keys, sessions or shares, or takes data out or in.
    pub audit: Option<Audited>,
}

const fn route(method: Method, place: Place, path: &'static str, access: Access) -> Route {
    Route { method, place, path, access, inference: false, body: Body::Account, audit: None }
}

const fn inference(path: &'static str) -> Route {
    let access = Access::Anonymous(Right::Infer);
    Route {
        method: Method::POST,
        place: Place::Api,
        path,
        access,
        inference: true,
        body: Body::Inference,
        audit: None,
    }
}

const fn post_of(body: Body, path: &'static str, access: Access) -> Route {
    Route { method: Method::POST, place: Place::Api, path, access, inference: false, body, audit: None }
}

const fn audited(mut route: Route, action: &'static str) -> Route {
    route.audit = Some(Audited { action, how: None });
    route
}

/// A route by which a session begins, in one of several ways.
const fn beginning(mut route: Route, how: &'static str) -> Route {
    route.audit = Some(Audited { action: "session.begin", how: Some(how) });
    route
}

const READ_INFERENCE: Access = Access::Needs(Right::ReadInference);
const INFER: Access = Access::Needs(Right::Infer);
const READ_CONVERSATIONS: Access = Access::Needs(Right::ReadConversations);
const WRITE_CONVERSATIONS: Access = Access::Needs(Right::WriteConversations);
const READ_USAGE: Access = Access::Needs(Right::ReadUsage);
const READ_KEYS: Access = Access::Needs(Right::ReadKeys);
const MANAGE_KEYS: Access = Access::Needs(Right::ManageKeys);
const READ_ACCOUNT: Access = Access::Needs(Right::ReadAccount);
const WRITE_ACCOUNT: Access = Access::Needs(Right::WriteAccount);
const ADMIN: Access = Access::Needs(Right::Administer);

/// Every route.
pub static ROUTES: &[Route] = &[
    route(Method::GET, Place::Both, "/health", Access::Probe),
    route(Method::GET, Place::Root, "/livez", Access::Probe),
    route(Method::GET, Place::Root, "/readyz", Access::Probe),
    route(Method::GET, Place::Root, "/.well-known/jwks.json", Access::Open),
    route(Method::GET, Place::Root, "/", Access::Open),
    route(Method::GET, Place::Root, "/api/swagger", Access::Open),
    route(Method::GET, Place::Root, "/api/swagger/index.html", Access::Open),
    route(Method::GET, Place::Root, "/api/swagger/openapi.json", Access::Open),
    route(Method::GET, Place::Root, "/api/swagger/doc.json", Access::Open),
    route(Method::GET, Place::Root, "/api/swagger/openapi.yaml", Access::Open),
    route(Method::GET, Place::Root, "/api/swagger/{file}", Access::Open),
    route(Method::GET, Place::Api, "/models", Access::Anonymous(Right::ReadInference)),
    route(Method::GET, Place::Api, "/models/{id...}", Access::Anonymous(Right::ReadInference)),
    inference("/chat/completions"),
    inference("/completions"),
    inference("/embeddings"),
    inference("/responses"),
    inference("/responses/input_tokens"),
    inference("/apply-template"),
    inference("/tokenize"),
    inference("/detokenize"),
    route(Method::GET, Place::Api, "/responses/{id}", READ_INFERENCE),
    route(Method::DELETE, Place::Api, "/responses/{id}", INFER),
    route(Method::POST, Place::Api, "/responses/{id}/cancel", INFER),
    route(Method::GET, Place::Api, "/responses/{id}/input_items", READ_INFERENCE),
    route(Method::GET, Place::Api, "/status", READ_ACCOUNT),
    route(Method::GET, Place::Both, "/auth/google", Access::Open),
    beginning(route(Method::GET, Place::Both, "/auth/google/callback", Access::Open), "google"),
    beginning(route(Method::POST, Place::Both, "/auth/exchange", Access::Open), "exchange"),
    beginning(route(Method::POST, Place::Both, "/auth/guest", Access::Open), "guest"),
    audited(route(Method::POST, Place::Both, "/auth/refresh", Access::Proof), "session.refresh"),
    audited(route(Method::POST, Place::Both, "/auth/logout", WRITE_ACCOUNT), "session.end"),
    route(Method::GET, Place::Both, "/auth/sessions", READ_KEYS),
    audited(route(Method::DELETE, Place::Both, "/auth/sessions/{id}", MANAGE_KEYS), "session.end"),
    route(Method::GET, Place::Api, "/user/profile", READ_ACCOUNT),
    audited(route(Method::PATCH, Place::Api, "/user/profile", WRITE_ACCOUNT), "user.update"),
    audited(route(Method::DELETE, Place::Api, "/user/profile", MANAGE_KEYS), "user.delete"),
    route(Method::GET, Place::Api, "/user/api-keys", READ_KEYS),
    audited(route(Method::POST, Place::Api, "/user/api-keys", MANAGE_KEYS), "key.create"),
    route(Method::GET, Place::Api, "/user/api-keys/{id}", READ_KEYS),
    audited(route(Method::PATCH, Place::Api, "/user/api-keys/{id}", MANAGE_KEYS), "key.update"),
    audited(route(Method::DELETE, Place::Api, "/user/api-keys/{id}", MANAGE_KEYS), "key.revoke"),
    route(Method::GET, Place::Api, "/usage", READ_USAGE),
    route(Method::GET, Place::Api, "/admin/usage", ADMIN),
    audited(route(Method::GET, Place::Api, "/admin/export", ADMIN), "export"),
    audited(post_of(Body::Export, "/admin/import", ADMIN), "import"),
    route(Method::GET, Place::Api, "/admin/audit", ADMIN),
    route(Method::GET, Place::Api, "/conversations", READ_CONVERSATIONS),
    post_of(Body::Items, "/conversations", WRITE_CONVERSATIONS),
    route(Method::GET, Place::Api, "/conversations/{id}", READ_CONVERSATIONS),
    route(Method::POST, Place::Api, "/conversations/{id}", WRITE_CONVERSATIONS),
    route(Method::PATCH, Place::Api, "/conversations/{id}", WRITE_CONVERSATIONS),
    route(Method::DELETE, Place::Api, "/conversations/{id}", WRITE_CONVERSATIONS),
    route(Method::GET, Place::Api, "/conversations/{id}/items", READ_CONVERSATIONS),
    post_of(Body::Items, "/conversations/{id}/items", WRITE_CONVERSATIONS),
    route(Method::GET, Place::Api, "/conversations/{id}/items/{item_id}", READ_CONVERSATIONS),
    route(Method::DELETE, Place::Api, "/conversations/{id}/items/{item_id}", WRITE_CONVERSATIONS),
    route(Method::GET, Place::Api, "/conversations/{id}/branches", READ_CONVERSATIONS),
    route(Method::POST, Place::Api, "/conversations/{id}/branches", WRITE_CONVERSATIONS),
    route(Method::GET, Place::Api, "/conversations/{id}/export", READ_CONVERSATIONS),
    audited(
        route(Method::POST, Place::Api, "/conversations/{id}/share", WRITE_CONVERSATIONS),
        "share.create",
    ),
    audited(route(Method::DELETE, Place::Api, "/conversations/{id}/share", WRITE_CONVERSATIONS), "share.end"),
    route(Method::GET, Place::Api, "/shared/{token}", Access::Open),
    route(Method::GET, Place::Api, "/admin/users", ADMIN),
    audited(route(Method::POST, Place::Api, "/admin/users", ADMIN), "user.create"),
    route(Method::GET, Place::Api, "/admin/users/{id}", ADMIN),
    audited(route(Method::PATCH, Place::Api, "/admin/users/{id}", ADMIN), "user.update"),
    audited(route(Method::DELETE, Place::Api, "/admin/users/{id}", ADMIN), "user.delete"),
    route(Method::GET, Place::Api, "/admin/users/{id}/shares", ADMIN),
    audited(
        route(Method::DELETE, Place::Api, "/admin/users/{id}/shares/{conversation_id}", ADMIN),
        "share.end",
    ),
    route(Method::GET, Place::Api, "/admin/users/{id}/sessions", ADMIN),
    beginning(route(Method::POST, Place::Api, "/admin/users/{id}/sessions", ADMIN), "admin"),
    audited(
        route(Method::DELETE, Place::Api, "/admin/users/{id}/sessions/{session_id}", ADMIN),
        "session.end",
    ),
    route(Method::GET, Place::Api, "/admin/users/{id}/api-keys", ADMIN),
    audited(route(Method::POST, Place::Api, "/admin/users/{id}/api-keys", ADMIN), "key.create"),
    audited(route(Method::DELETE, Place::Api, "/admin/users/{id}/api-keys/{key_id}", ADMIN), "key.revoke"),
];

/// What the table says of a request.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// This route.
    Route(&'static Route),
    /// The path, but not this method: the answer is 405, or `Allow` for OPTIONS, which anyone may have.
    OtherMethod,
    /// Nothing.
    Unknown,
}

/// Looks a request up.
#[must_use]
pub fn find(method: &Method, path: &str) -> Found {
    let is_root = path == "/";
    // As warp does: one slash at the end makes no difference.
    let path = path.strip_suffix('/').unwrap_or(path);
    let in_api = path.strip_prefix("/api/v1/").or_else(|| path.strip_prefix("/v1/"));
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut found = Found::Unknown;
    for route in ROUTES {
        let here = match route.place {
            Place::Root if route.path == "/" => is_root,
            Place::Root => matches(route.path, path.strip_prefix('/')),
            Place::Api => matches(route.path, in_api),
            Place::Both => matches(route.path, in_api) || matches(route.path, path.strip_prefix('/')),
        };
        if here {
            if route.method == method {
                return Found::Route(route);
            }
            found = Found::OtherMethod;
        }
    }
    found
}

/// What stands in a path of that route where its pattern has names.
pub fn captured<'a>(route: &Route, path: &'a str) -> impl Iterator<Item = &'a str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let pairs = route.path.rsplit('/').zip(path.rsplit('/'));
    pairs.filter(|(pattern, _)| pattern.starts_with('{')).map(|(_, given)| given)
}

/// Whether `path`, which lacks its first slash, is one that `pattern` describes.
fn matches(pattern: &str, path: Option<&str>) -> bool {
    let Some(mut path) = path else { return false };
    let mut pattern = &pattern[1..];
    loop {
        if pattern.ends_with("...}") && !pattern.contains('/') {
            return !path.is_empty();
        }
        let (wanted, more_wanted) = pattern.split_once('/').map_or((pattern, None), |(a, b)| (a, Some(b)));
        let (given, more_given) = path.split_once('/').map_or((path, None), |(a, b)| (a, Some(b)));
        let fits = if wanted.starts_with('{') { !given.is_empty() } else { wanted == given };
        match (fits, more_wanted, more_given) {
            (true, None, None) => return true,
            (true, Some(wanted), Some(given)) => (pattern, path) = (wanted, given),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use jan_actors::audit::ACTIONS;
    use proptest::prelude::*;

    use super::*;

    fn access(method: Method, path: &str) -> Option<Access> {
        match find(&method, path) {
            Found::Route(route) => Some(route.access),
            _ => None,
        }
    }

    #[test]
    fn paths_are_found_under_each_of_their_names() {
        for path in ["/v1/models", "/api/v1/models", "/v1/models/", "/v1/models/a/b", "/v1/models/%2e%2e"] {
            assert_eq!(access(Method::GET, path), Some(Access::Anonymous(Right::ReadInference)), "{path}");
        }
        for path in ["/auth/refresh", "/v1/auth/refresh", "/api/v1/auth/refresh"] {
            assert_eq!(access(Method::POST, path), Some(Access::Proof), "{path}");
        }
        assert_eq!(access(Method::HEAD, "/health"), Some(Access::Probe));
        for path in ["/", "/api/swagger", "/api/swagger/", "/api/swagger/page.js"] {
            assert_eq!(access(Method::GET, path), Some(Access::Open), "{path}");
        }
        assert_eq!(access(Method::DELETE, "/v1/user/api-keys/key_1"), Some(MANAGE_KEYS));
        assert_eq!(access(Method::POST, "/v1/admin/users/user_1/sessions"), Some(ADMIN));
    }

    #[test]
    fn what_is_not_in_the_table_is_unknown() {
        for path in [
            "",
            "//",
            "///",
            "/models",
            "/v1",
            "/v1/",
            "/api/models",
            "/v1//models",
            "//v1/models",
            "/v1/user/api-keys/a/b",
            "/v1/admin/users//sessions",
            "/v1/Models",
            "/v1/livez",
            "/v1/user/profile//",
        ] {
            assert!(matches!(find(&Method::GET, path), Found::Unknown), "{path}");
        }
        assert!(matches!(find(&Method::PUT, "/v1/user/profile"), Found::OtherMethod));
        assert!(matches!(find(&Method::OPTIONS, "/v1/chat/completions"), Found::OtherMethod));
    }

    #[test]
    fn ids_of_a_path_are_found() {
        let one = |method, path| match find(&method, path) {
            Found::Route(route) => captured(route, path).collect::<Vec<_>>(),
            _ => panic!("{path}"),
        };
        let path = "/v1/admin/users/user_1/api-keys/key_2/";
        assert_eq!(one(Method::DELETE, path), ["key_2", "user_1"]);
        assert_eq!(one(Method::DELETE, "/auth/sessions/sess_1"), ["sess_1"]);
        assert_eq!(one(Method::POST, "/v1/conversations/conv_1/share"), ["conv_1"]);
        assert!(one(Method::GET, "/").is_empty() && one(Method::GET, "/v1/usage").is_empty());
    }

    /// An operation that is added later is not forgotten.
    #[test]
    fn what_changes_accounts_or_takes_data_out_is_in_the_audit_log() {
        for route in ROUTES {
            let name = format!("{} {}", route.method, route.path);
            let of_accounts = matches!(
                route.access,
                MANAGE_KEYS
                    | WRITE_ACCOUNT
                    | ADMIN
                    | Access::Proof
                    | Access::Open
                    | Access::Needs(Right::ReadKeys)
            );
            let is_change = route.method != Method::GET && (of_accounts || route.path.contains("/share"));
            let is_read = matches!(route.path, "/admin/export" | "/auth/google/callback");
            assert_eq!(
                route.audit.is_some(),
                is_change || is_read,
                "{name}: add or remove `audited(…)` in ROUTES"
            );
            let action = route.audit.map(|audit| audit.action);
            assert!(action.is_none_or(|action| ACTIONS.contains(&action)), "{name}: {action:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "[/a-z{}.%-]{0,40}") {
            let _ = find(&Method::GET, &path);
        }
    }
}
