//! Validation of title, model and metadata of a conversation.

use std::collections::BTreeMap;

use super::error::ConversationError;
use crate::config::ConversationsConfig;

/// OpenAI's limits on the metadata of every object.
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;
/// Maximum length of a stored model id in bytes.
const MAX_MODEL: usize = 256;

/// Returns a title without surrounding whitespace.
pub fn valid_title(title: &str, limits: &ConversationsConfig) -> Result<String, ConversationError> {
    let title = title.trim();
    let most = limits.max_title_chars;
    if (1..=most).contains(&title.chars().count()) && !title.contains(char::is_control) {
        return Ok(title.to_owned());
    }
    let problem = format!(
        "must have 1 to {most} characters, none of them a control character (conversations.max_title_chars)"
    );
    Err(ConversationError::invalid("title", problem))
}

/// Checks a model's id. It need not name a served model, which may change later.
pub fn valid_model(model: String) -> Result<String, ConversationError> {
    if (1..=MAX_MODEL).contains(&model.len()) && !model.contains(char::is_control) {
        return Ok(model);
    }
    Err(ConversationError::invalid("model", format!("must be a model's id of 1 to {MAX_MODEL} bytes")))
}

/// Checks metadata against OpenAI's limits.
pub fn check_metadata(
    metadata: &BTreeMap<String, String>,
    limits: &ConversationsConfig,
) -> Result<(), ConversationError> {
    let most = limits.max_metadata_pairs;
    if metadata.len() > most {
        let problem = format!(
            "has {} pairs; at most {most} are allowed (conversations.max_metadata_pairs)",
            metadata.len()
        );
        return Err(ConversationError::invalid("metadata", problem));
    }
    for (key, value) in metadata {
        if key.chars().count() > MAX_METADATA_KEY {
            let problem = format!("has a key of more than {MAX_METADATA_KEY} characters");
            return Err(ConversationError::invalid("metadata", problem));
        }
        if value.chars().count() > MAX_METADATA_VALUE {
            let problem = format!("must have at most {MAX_METADATA_VALUE} characters");
            return Err(ConversationError::invalid(format!("metadata.{key}"), problem));
        }
    }
    Ok(())
}
