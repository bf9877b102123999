//! From a request that was looked up to its handler.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use http::Uri;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply};

use super::Captured;
use crate::http::body::{Announced, BodyStream};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// The edge's knowledge of a request, handed to the filter of its route.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub context: RequestContext,
    pub uri: Uri,
    pub captured: Captured,
    pub announced: Announced,
}

/// One request on its way to a handler, which takes out of it what its arguments are.
#[derive(Debug)]
pub struct Call {
    arrival: Arrival,
    request: Option<ApiRequest>,
}

impl Call {
    fn parameters<const N: usize>(&self) -> [String; N] {
        let mut texts = self.arrival.captured.texts(self.arrival.uri.path());
        // Handlers take as many as their paths have: the router is built of no others.
        std::array::from_fn(|_| texts.next().unwrap_or_default().to_owned())
    }
}

/// An argument of a handler.
pub trait Extract<S>: Sized {
    /// Parameters of the path that it takes.
    const PARAMETERS: usize = 0;
    /// `true` if it takes the headers and the body.
    const TAKES_BODY: bool = false;

    /// Takes it out of a request.
    fn extract(state: &S, call: &mut Call) -> Self;
}

/// The parameter of a path that has one, as it stands, percent-encoding included.
#[derive(Clone, Debug)]
pub struct Id(pub String);

/// The parameters of a path that has two.
#[derive(Clone, Debug)]
pub struct Ids(pub String, pub String);

/// The query as it stands; empty where there is none.
#[derive(Clone, Debug)]
pub struct RawQuery(pub String);

impl<S> Extract<S> for Id {
    const PARAMETERS: usize = 1;

    fn extract(_: &S, call: &mut Call) -> Self {
        let [id] = call.parameters();
        Self(id)
    }
}

impl<S> Extract<S> for Ids {
    const PARAMETERS: usize = 2;

    fn extract(_: &S, call: &mut Call) -> Self {
        let [first, second] = call.parameters();
        Self(first, second)
    }
}

impl<S> Extract<S> for RawQuery {
    fn extract(_: &S, call: &mut Call) -> Self {
        Self(call.arrival.uri.query().unwrap_or_default().to_owned())
    }
}

/// The host and port in the URI of an HTTP/2 request, which has no `Host`.
#[derive(Clone, Debug)]
pub struct Authority(pub Option<String>);

impl<S> Extract<S> for Authority {
    fn extract(_: &S, call: &mut Call) -> Self {
        Self(call.arrival.uri.authority().map(ToString::to_string))
    }
}

impl<S> Extract<S> for RequestContext {
    fn extract(_: &S, call: &mut Call) -> Self {
        call.arrival.context.clone()
    }
}

impl<S> Extract<S> for ApiRequest {
    const TAKES_BODY: bool = true;

    fn extract(_: &S, call: &mut Call) -> Self {
        call.request.take().expect("a handler takes the request once")
    }
}

/// Answer of a handler.
pub trait Answer {
    /// Makes a response of it.
    fn into_answer(self) -> Response;
}

impl Answer for Response {
    fn into_answer(self) -> Response {
        self
    }
}

impl Answer for Result<Response, ApiError> {
    fn into_answer(self) -> Response {
        self.unwrap_or_else(Reply::into_response)
    }
}

type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A handler whose arguments are extracted.
pub(super) type Handle<S> = Arc<dyn Fn(&S, Call) -> Answering + Send + Sync>;

/// An asynchronous function of up to five arguments `A`, each [`Extract`].
pub trait Handler<S, A>: Send + Sync + 'static {
    /// Parameters of the path that it takes.
    const PARAMETERS: usize;
    /// `true` if it takes the headers and the body.
    const TAKES_BODY: bool;

    /// Answers a request.
    fn call(&self, state: &S, call: Call) -> Answering;
}

macro_rules! handler_of {
    ($($argument:ident)*) => {
        impl<S, F, R, $($argument),*> Handler<S, ($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R + Send + Sync + 'static,
            R: Future<Output: Answer> + Send + 'static,
            $($argument: Extract<S>),*
        {
            const PARAMETERS: usize = 0 $(+ $argument::PARAMETERS)*;
            const TAKES_BODY: bool = false $(|| $argument::TAKES_BODY)*;

            #[allow(unused_mut, unused_variables)]
            fn call(&self, state: &S, mut call: Call) -> Answering {
                // Not an async block: that would have room for the handler's future twice.
                Box::pin(self($($argument::extract(state, &mut call)),*).map(Answer::into_answer))
            }
        }
    };
}
handler_of!();
handler_of!(A);
handler_of!(A B);
handler_of!(A B C);
handler_of!(A B C D);
handler_of!(A B C D E);

/// The filter of a route. It neither compares nor rejects: the router has chosen it.
pub(super) fn filter<S: Send + Sync + 'static>(
    state: Arc<S>,
    handle: Handle<S>,
    takes_body: bool,
) -> BoxedFilter<(Response,)> {
    let arrival = warp::ext::get::<Arrival>();
    arrival
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |arrival: Arrival, headers, body| {
            let body = BodyStream::new(body, &headers, &arrival.announced);
            let context = arrival.context.clone();
            // A body that the handler does not take is discarded by being dropped.
            let request =
                takes_body.then(|| ApiRequest::new(context, headers, arrival.announced.clone(), body));
            handle(&state, Call { arrival, request })
        })
        .boxed()
}
