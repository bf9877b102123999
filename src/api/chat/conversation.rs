//! `conversation` of `POST /chat/completions`: the stored history precedes the new messages, and the messages and the
//! answer are stored.

use std::fmt;

use jan_actors::conversations::{Anchor, Turn, TurnRequest, chat};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::conversations::given;
use crate::api::conversations::items::anchor;
use crate::api::conversations::types::{own_items, parse_id};
use crate::api::{respond::user_of, state::AppState};
use crate::http::{ApiError, RequestContext};

/// The conversation that a request continues: its id, or an object.
#[derive(Debug, PartialEq, Eq)]
pub struct ConversationParam {
    id: String,
    anchor: Anchor,
}

/// The conversation that a request continues.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"id": "conv_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d"}))]
pub struct ConversationTarget {
    /// Its id.
    id: String,
    /// The parent of the new messages: an item's id, or null for the beginning. Absent: the end of the active
    /// branch. Existing replies remain as another branch.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    parent: Option<Option<String>>,
}

impl<'de> Deserialize<'de> for ConversationParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ParamVisitor;
        impl<'de> Visitor<'de> for ParamVisitor {
            type Value = ConversationParam;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a conversation's id or an object with `id`")
            }

            fn visit_str<E>(self, id: &str) -> Result<ConversationParam, E> {
                Ok(ConversationParam { id: id.to_owned(), anchor: Anchor::Head })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConversationParam, A::Error> {
                let target = ConversationTarget::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ConversationParam { id: target.id, anchor: anchor(target.parent) })
            }
        }
        deserializer.deserialize_any(ParamVisitor)
    }
}

/// The conversation of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConversationRef {
    /// Its id.
    id: String,
    /// The id of the answer's item.
    item_id: String,
}

impl From<&Turn> for ConversationRef {
    fn from(turn: &Turn) -> Self {
        Self { id: turn.conversation().to_string(), item_id: turn.answer_id().to_owned() }
    }
}

/// Begins the turn: stores `messages` durably and replaces them with the stored history, which then includes them.
/// Without messages the last answer is regenerated.
pub async fn begin(
    state: &AppState,
    context: &RequestContext,
    param: ConversationParam,
    model: &str,
    messages: &mut Vec<Value>,
) -> Result<Turn, ApiError> {
    let user = user_of(context)?;
    let id = parse_id(&param.id).map_err(|error| error.with_param("conversation"))?;
    if state.models.describe(model).await.is_none() {
        return Err(ApiError::model_not_found(model));
    }
    let items = own_items(chat::items(messages), state.conversations.limits().max_item_bytes)?;
    let request = TurnRequest { items, anchor: param.anchor, model: Some(model.to_owned()) };
    let turn = state.conversations.begin(user, id, request).await;
    let turn = turn.map_err(ApiError::from_conversation)?;
    *messages = chat::messages(turn.history());
    Ok(turn)
}

/// Removes a failed turn, so that the request can be repeated.
pub async fn take_back(turn: Option<Turn>) {
    if let Some(turn) = turn
        && let Err(error) = turn.take_back().await
    {
        tracing::warn!(%error, "a failed turn could not be rolled back");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_and_objects() {
        let param = |value: Value| serde_json::from_value::<ConversationParam>(value);
        let expected = |anchor| ConversationParam { id: "conv_1".to_owned(), anchor };
        assert_eq!(param(json!("conv_1")).unwrap(), expected(Anchor::Head));
        assert_eq!(param(json!({"id": "conv_1"})).unwrap(), expected(Anchor::Head));
        assert_eq!(param(json!({"id": "conv_1", "parent": null})).unwrap(), expected(Anchor::Beginning));
        let after = expected(Anchor::After("msg_1".to_owned()));
        assert_eq!(param(json!({"id": "conv_1", "parent": "msg_1"})).unwrap(), after);
        for wrong in [json!(1), json!([]), json!({}), json!({"id": 1}), json!({"id": "c", "parent": 1})] {
            assert!(param(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
