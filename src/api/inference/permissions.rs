//! Checks of an inference request that depend on its body, which the declaration of its route therefore cannot make.

use jan_actors::identity::Right;

use crate::api::state::AppState;
use crate::auth::gate::require;
use crate::http::{ApiError, RequestContext};

/// Fails if the caller's key, or a key that it was created with, does not permit a model, under any of its names.
///
/// A model that does not exist passes; looking it up reports that.
pub async fn check_model(state: &AppState, context: &RequestContext, model: &str) -> Result<(), ApiError> {
    for list in state.identity.model_lists(&context.caller.principal) {
        if !is_among(state, model, &list).await {
            return Err(ApiError::model_not_allowed(model));
        }
    }
    Ok(())
}

/// Returns whether a model, given by its id or an alias, is on a list.
async fn is_among(state: &AppState, model: &str, list: &[String]) -> bool {
    if list.iter().any(|listed| listed == model) {
        return true;
    }
    let Some(described) = state.models.describe(model).await else { return true };
    for listed in list {
        if state.models.describe(listed).await.is_some_and(|listed| listed.root == described.root) {
            return true;
        }
    }
    false
}

/// Fails if an identified caller lacks the permission for conversations, which goes beyond inference.
pub fn check_conversations(context: &RequestContext) -> Result<(), ApiError> {
    let principal = &context.caller.principal;
    match principal.user() {
        Some(_) => require(principal, Right::WriteConversations),
        None => Ok(()),
    }
}
