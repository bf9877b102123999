//! The declared properties of a route that the gate, the audit log and the reading of bodies follow. Routes are
//! declared beside their handlers, see [`Route`](crate::http::routing::Route).

use http::Method;
use jan_actors::identity::Right;

/// The callers of a route.
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

/// The record of a request in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The action, one of [`ACTIONS`](jan_actors::audit::ACTIONS), where its handler notes no other.
    pub action: &'static str,
    /// In which way, where there are several.
    pub how: Option<&'static str>,
}

/// One method of one path, without its handler.
#[derive(Clone, Debug)]
pub struct Rule {
    /// GET stands for HEAD too, unless the route says otherwise.
    pub method: Method,
    /// The path behind its prefix; `{id}` is one segment.
    pub path: String,
    /// Who may call it.
    pub access: Access,
    /// Whether a model works for it.
    pub inference: bool,
    /// The body that it takes.
    pub body: Body,
    /// Its record in the audit log, where it changes accounts, keys, sessions or shares, or takes data out or in.
    pub audit: Option<Audited>,
}
