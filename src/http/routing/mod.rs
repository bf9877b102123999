//! Routes. Each is declared once, beside its handler; its warp filter, the look-up of its path, 404, 405, `Allow`, HEAD,
//! OPTIONS, the decision about its callers and its place in the API's description follow from the declaration.

mod handler;
mod tree;

use std::sync::Arc;

use http::Method;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::{RefOr, Schema};
use warp::filters::BoxedFilter;

pub(super) use self::handler::Arrival;
use self::handler::Handle;
pub use self::handler::{Authority, Call, Extract, Handler, Id, Ids, RawQuery};
use self::tree::Tree;
pub use self::tree::{Captured, Found};
use super::Response;
use crate::auth::access::{Access, Audited, Body, Rule};

/// Location of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As it stands.
    Root,
    /// Under `/api/v1` and its alias `/v1`.
    Api,
    /// Under both of these and as it stands, where it is described.
    RootAndApi,
    /// The same, described under `/api/v1`.
    ApiAndRoot,
}

impl Place {
    /// Beginnings of its paths; the first is the one of the description.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::Root => &[""],
            Self::Api => &["/api/v1", "/v1"],
            Self::RootAndApi => &["", "/api/v1", "/v1"],
            Self::ApiAndRoot => &["/api/v1", "/v1", ""],
        }
    }
}

/// The part of an OpenAPI description that belongs to one route.
#[allow(missing_debug_implementations)]
pub struct Description {
    /// The operation as `#[utoipa::path]` has it.
    pub operation: Operation,
    /// The schemas that it refers to.
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

/// One method of one path: who may call it, and what answers. `S` is the state that handlers share.
#[derive(Clone)]
pub struct Route<S> {
    rule: Rule,
    place: Place,
    takes_rest: bool,
    with_head: bool,
    parameters: usize,
    takes_body: bool,
    handle: Handle<S>,
    description: Option<fn() -> Description>,
}

impl<S> std::fmt::Debug for Route<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").field("rule", &self.rule).field("place", &self.place).finish_non_exhaustive()
    }
}

/// Declares the route of a handler: `route!(handler, place, access)`. Method and path are those of its
/// `#[utoipa::path]`, which also describes it.
macro_rules! route {
    ($handler:ident, $place:expr, $access:expr) => {
        pastey::paste! {
            $crate::http::routing::Route::described::<[<__path_ $handler>], _, _>($handler, $place, $access)
        }
    };
    ($module:ident::$handler:ident, $place:expr, $access:expr) => {
        pastey::paste! {
            $crate::http::routing::Route::described::<$module::[<__path_ $handler>], _, _>(
                $module::$handler, $place, $access,
            )
        }
    };
}
pub(crate) use route;

impl<S: 'static> Route<S> {
    /// A route that is not described. `path`: `{name}` is one segment.
    pub fn new<A, H: Handler<S, A>>(
        method: Method,
        path: &str,
        handler: H,
        place: Place,
        access: Access,
    ) -> Self {
        Self {
            rule: Rule {
                method,
                path: path.to_owned(),
                access,
                inference: false,
                body: Body::default(),
                audit: None,
            },
            place,
            takes_rest: false,
            with_head: true,
            parameters: H::PARAMETERS,
            takes_body: H::TAKES_BODY,
            handle: Arc::new(move |state, call| handler.call(state, call)),
            description: None,
        }
    }

    /// A route with the method, the path and the description that `P` has; see [`route!`].
    pub fn described<P, A, H>(handler: H, place: Place, access: Access) -> Self
    where
        P: utoipa::Path + utoipa::__dev::SchemaReferences + for<'t> utoipa::__dev::Tags<'t>,
        H: Handler<S, A>,
    {
        let method = match P::methods()[..] {
            [HttpMethod::Get] => Method::GET,
            [HttpMethod::Post] => Method::POST,
            [HttpMethod::Put] => Method::PUT,
            [HttpMethod::Patch] => Method::PATCH,
            [HttpMethod::Delete] => Method::DELETE,
            _ => panic!("{}: a route has one method, none of HEAD, OPTIONS and TRACE", P::path()),
        };
        let description = || {
            let mut description = Description { operation: P::operation(), schemas: Vec::new() };
            let tags = P::tags().into_iter().map(str::to_owned).collect();
            description.operation.tags = Some(tags);
            P::schemas(&mut description.schemas);
            description
        };
        Self { description: Some(description), ..Self::new(method, &P::path(), handler, place, access) }
    }

    /// A model works for it, and its body is a model's input.
    #[must_use]
    pub fn inference(mut self) -> Self {
        self.rule.inference = true;
        self.body(Body::Inference)
    }

    /// It takes another body than a small one.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.rule.body = body;
        self
    }

    /// The audit log records it as this action, one of [`ACTIONS`](jan_actors::audit::ACTIONS).
    #[must_use]
    pub fn audited(mut self, action: &'static str) -> Self {
        self.rule.audit = Some(Audited { action, how: None });
        self
    }

    /// A session begins by it, in this of several ways.
    #[must_use]
    pub fn begins_session(mut self, how: &'static str) -> Self {
        self.rule.audit = Some(Audited { action: "session.begin", how: Some(how) });
        self
    }

    /// The last name of its path is all that follows, slashes included.
    #[must_use]
    pub fn takes_rest(self) -> Self {
        Self { takes_rest: true, ..self }
    }

    /// A GET that changes something, and so does not stand for HEAD.
    #[must_use]
    pub fn without_head(self) -> Self {
        Self { with_head: false, ..self }
    }

    /// The declared properties.
    #[must_use]
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The whole path under which it is described.
    #[must_use]
    pub fn described_path(&self) -> String {
        format!("{}{}", self.place.prefixes()[0], self.rule.path)
    }

    /// Its part of the API's description, where it has one.
    #[must_use]
    pub fn description(&self) -> Option<Description> {
        self.description.map(|describe| describe())
    }

    /// The patterns of its path, one for each prefix.
    fn patterns(&self) -> impl Iterator<Item = String> {
        let path = match self.takes_rest {
            true => self.rule.path.replace('}', "...}"),
            false => self.rule.path.clone(),
        };
        self.place.prefixes().iter().map(move |prefix| format!("{prefix}{path}"))
    }
}

/// A route with the filter that answers it.
#[derive(Debug)]
pub struct Target {
    /// The declared properties.
    pub rule: Rule,
    pub(super) filter: BoxedFilter<(Response,)>,
}

/// All routes, by path and method.
#[derive(Debug)]
pub struct Router {
    tree: Tree<Arc<Target>>,
}

impl Router {
    /// Builds the filter of every route over `state`.
    ///
    /// # Panics
    /// Two routes have the same method and path, or a handler takes other parameters than its path has: mistakes in
    /// declarations, which every start and every test of the routes would show.
    pub fn new<S: Send + Sync + 'static>(routes: impl IntoIterator<Item = Route<S>>, state: S) -> Self {
        let state = Arc::new(state);
        let mut tree = Tree::default();
        for route in routes {
            let names = route.rule.path.matches('{').count();
            let (path, taken) = (&route.rule.path, route.parameters);
            assert!(taken == names, "{path} has {names} parameters, and its handler takes {taken}");
            let filter = handler::filter(Arc::clone(&state), Arc::clone(&route.handle), route.takes_body);
            let target = Arc::new(Target { rule: route.rule.clone(), filter });
            for pattern in route.patterns() {
                tree.insert(&target.rule.method, &pattern, route.with_head, &target);
            }
        }
        Self { tree }
    }

    /// Looks up a request.
    #[must_use]
    pub fn find(&self, method: &Method, path: &str) -> Found<'_, Arc<Target>> {
        self.tree.find(method, path)
    }
}
