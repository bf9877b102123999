//! The API: a folder or a file for each resource, with its routes, handlers and wire types.

mod accounts;
mod admin_models;
mod audit;
mod backup;
mod chat;
mod completions;
mod conversations;
mod embeddings;
#[cfg(test)]
#[path = "../../tests/fuzz/server.rs"]
mod fuzz;
mod health;
mod inference;
mod models;
mod openapi;
mod respond;
mod responses;
pub mod state;
mod status;
mod tokenize;
mod usage;

pub use self::openapi::PAGE as SWAGGER_PAGE;
use self::state::Route;

/// Returns all routes.
#[must_use]
pub fn routes() -> Vec<Route> {
    [
        health::routes(),
        models::routes(),
        chat::routes(),
        completions::routes(),
        embeddings::routes(),
        responses::routes(),
        tokenize::routes(),
        conversations::routes(),
        conversations::items::routes(),
        conversations::branches::routes(),
        conversations::shares::routes(),
        accounts::sessions::routes(),
        accounts::google::routes(),
        accounts::profile::routes(),
        accounts::api_keys::routes(),
        accounts::users::routes(),
        accounts::credentials::routes(),
        usage::routes(),
        audit::routes(),
        admin_models::routes(),
        backup::routes(),
        status::routes(),
        openapi::routes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use jan_actors::audit::ACTIONS;
    use jan_actors::identity::Right;

    use super::*;
    use crate::auth::access::Access;

    /// Guards against new operations without an audit record.
    #[test]
    fn routes_that_change_accounts_or_export_data_are_audited() {
        for route in routes() {
            let rule = route.rule();
            let name = format!("{} {}", rule.method, rule.path);
            let of_accounts = matches!(
                rule.access,
                Access::Needs(Right::ManageKeys | Right::WriteAccount | Right::Administer | Right::ReadKeys)
                    | Access::Proof
                    | Access::Open
            );
            let is_change = rule.method != Method::GET && (of_accounts || rule.path.contains("/share"));
            let is_read = matches!(rule.path.as_str(), "/admin/export" | "/auth/google/callback");
            let is_audited = rule.audit.is_some();
            assert_eq!(is_audited, is_change || is_read, "{name}: add or remove `.audited(…)` at its route");
            let action = rule.audit.map(|audit| audit.action);
            assert!(action.is_none_or(|action| ACTIONS.contains(&action)), "{name}: {action:?}");
        }
    }
}
