//! The table of all keys: a file for each topic, a list for each section.

mod auth;
mod http;
mod models;
mod storage;
mod upstream;
mod web_search;

use std::sync::LazyLock;

use super::keys::{Key, Kind};

const HOUR_MS: i64 = 3_600_000;
const MILLISECONDS: &str = "ms";
const SECONDS: &str = "s";
const U32: i64 = u32::MAX as i64;

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, doc, secret: false, required: false, backend: None }
}

const fn secret(key: Key) -> Key {
    Key { secret: true, ..key }
}

const fn required(key: Key) -> Key {
    Key { required: true, ..key }
}

/// A key of models with this `backend`.
const fn of_backend(backend: &'static str, key: Key) -> Key {
    Key { backend: Some(backend), ..key }
}

const fn integer(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Integer { min, max, unit }
}

/// Lists of tables that exist with one value of `backend` in the table around them, which then needs at least one of them.
pub const BACKEND_LISTS: &[(&str, &str)] = &[("models[].upstreams", "upstream")];

/// The allowed values of settings that restrict worker processes.
const RESTRICTION: Kind = Kind::Choice(&["auto", "off", "require"]);

/// Every key, by section, in the order of the reference page.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    [
        http::HTTP,
        http::LOG,
        storage::STORAGE,
        auth::AUTH,
        auth::RATE_LIMITS,
        storage::CONVERSATIONS,
        models::ENGINE,
        models::QUEUE,
        storage::RESPONSES,
        storage::AUDIT,
        models::STRUCTURED,
        web_search::WEB_SEARCH,
        models::WORKER,
        upstream::UPSTREAM,
        models::MODELS,
        upstream::UPSTREAMS,
    ]
    .concat()
});
