//! The declared properties of a route that the gate, the audit log and the reading of bodies follow. Routes are
//! declared beside their handlers, see [`Route`](crate::http::routing::Route).

use http::Method;
use jan_actors::identity::Right;

/// The callers of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone; not counted in any rate-limit bucket, since probes come every few seconds.
    Probe,
    /// Everyone.
    Open,
    /// Everyone; the request itself carries its proof of identity, a refresh token or an expired JWT.
    Proof,
    /// Anonymous callers if `auth.anonymous` permits them, and principals with this right.
    Anonymous(Right),
    /// Principals with this right.
    Needs(Right),
}

/// The kind of body that a route accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Small JSON: users, keys, sessions and similar.
    #[default]
    Account,
    /// JSON with a model's input.
    Inference,
    /// JSON with a conversation's items.
    Items,
    /// An export: lines of JSON, parsed as they arrive.
    Export,
}

/// The record of a request in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The action, one of [`ACTIONS`](jan_actors::audit::ACTIONS), unless the handler notes another one.
    pub action: &'static str,
    /// The variant of the action, if it has several.
    pub how: Option<&'static str>,
}

/// One method of one path, without its handler.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The method. GET includes HEAD unless the route says otherwise.
    pub method: Method,
    /// The path after its prefix; `{id}` is one segment.
    pub path: String,
    /// The permitted callers.
    pub access: Access,
    /// Set if a model runs for this route.
    pub inference: bool,
    /// The accepted body.
    pub body: Body,
    /// Its audit record, for routes that change accounts, keys, sessions or shares, or that export or import data.
    pub audit: Option<Audited>,
}
