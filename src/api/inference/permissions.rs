//! Checks of an inference request that the declaration of its route cannot make: they depend on its body.

use jan_actors::identity::Right;

use crate::api::state::AppState;
use crate::auth::gate::require;
use crate::http::{ApiError, RequestContext};

/// Fails where the caller's key, or one that it was made with, may not be used for a model, by whichever of its names.
///
/// A model that does not exist is for whoever looks for it.
pub async fn check_model(state: &AppState, context: &RequestContext, model: &str) -> Result<(), ApiError> {
    for list in state.identity.model_lists(&context.caller.principal) {
        if !is_among(state, model, &list).await {
            return Err(ApiError::model_not_allowed(model));
        }
    }
    Ok(())
}

/// Whether a model, by its id or an alias, is one of a list.
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

/// Fails where a caller who is somebody may not use conversations: they are more than inference.
pub fn check_conversations(context: &RequestContext) -> Result<(), ApiError> {
    let principal = &context.caller.principal;
    match principal.user() {
        Some(_) => require(principal, Right::WriteConversations),
        None => Ok(()),
    }
}
