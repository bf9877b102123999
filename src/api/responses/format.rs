//! `text.format`: the format of a response's text.
//!
//! Source: `TextResponseFormatConfiguration` in OpenAI's API description.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::api::inference::structured_output::{self, FormatKind, Structured};
use crate::http::ApiError;

/// The field that holds the format of the text.
pub const FORMAT: &str = "text.format";

/// The format of a text.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// With `json_schema`: its name, of letters, digits, `_` and `-`.
    #[schema(max_length = 64)]
    pub name: Option<String>,
    /// A description of its purpose; has no effect.
    pub description: Option<String>,
    /// With `json_schema`: the schema; any object if absent. With `json_object`: a schema of the object.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
    /// All of the schema is enforced during generation; a schema for which that is impossible is refused. Otherwise
    /// the rest of it is checked when an answer has ended.
    pub strict: Option<bool>,
}

impl TextFormat {
    /// # Errors
    /// 400 that names what is not supported.
    pub fn check(&self) -> Result<Option<Structured>, ApiError> {
        match self.kind {
            FormatKind::Text => Ok(None),
            FormatKind::JsonObject => match self.schema.clone() {
                Some(schema) => {
                    structured_output::json_schema(FORMAT, FORMAT, "object", Some(schema), false).map(Some)
                }
                None => structured_output::json_object(FORMAT).map(Some),
            },
            FormatKind::JsonSchema => {
                let name = self.name.as_deref().ok_or_else(|| ApiError::missing("text.format.name"))?;
                let strict = self.strict.unwrap_or(false);
                structured_output::json_schema(FORMAT, FORMAT, name, self.schema.clone(), strict).map(Some)
            }
        }
    }

    /// Returns the format in the form of the response object.
    pub fn shown(&self) -> Value {
        match self.kind {
            FormatKind::Text => json!({"type": "text"}),
            FormatKind::JsonObject => json!({"type": "json_object"}),
            FormatKind::JsonSchema => {
                let schema = self.schema.clone().map_or_else(|| json!({"type": "object"}), Value::Object);
                let strict = self.strict.unwrap_or(false);
                let mut shown =
                    json!({"type": "json_schema", "name": self.name, "schema": schema, "strict": strict});
                if let Some(description) = &self.description {
                    shown["description"] = json!(description);
                }
                shown
            }
        }
    }
}
