//! The tools of Responses: functions, and web search, which the server runs itself.
//!
//! Sources: `Tool`, `ToolChoiceTypes` in OpenAI's API description.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{FunctionObject, ToolField, Tools, check_kind, strict};
use crate::api::inference::web_search::{
    self, ContextSize, SearchFilters, SearchOptions, UserLocation, is_web_search,
};
use crate::http::ApiError;

/// A tool as in Responses: a function, or web search.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct ResponseTool {
    /// `function`, or `web_search` (`web_search_preview` is a synonym).
    #[serde(rename = "type")]
    kind: String,
    /// Its name: letters, digits, `_` and `-`.
    #[schema(max_length = 64, pattern = "^[a-zA-Z0-9_-]+$")]
    name: Option<String>,
    /// A description of its purpose, for the model.
    description: Option<String>,
    /// The JSON Schema of its arguments; none if absent.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    /// Its arguments always satisfy the schema. They do so anyway if `tool_choice` requires a call. By default `true` if
    /// all objects of the schema are closed (`additionalProperties` is false) and require all of their properties.
    strict: Option<bool>,
    /// Web search: the amount of context for the results.
    search_context_size: Option<ContextSize>,
    /// Web search: the user's location.
    user_location: Option<UserLocation>,
    /// Web search: restricts the pages.
    filters: Option<SearchFilters>,
    /// Web search: only `true`.
    external_web_access: Option<bool>,
    /// Web search: only `text`.
    search_content_types: Option<Vec<String>>,
}

/// Web search as a tool.
#[derive(Debug)]
pub struct WebTool {
    /// The search options.
    pub options: SearchOptions,
    /// Set if the server searches before it asks the model; otherwise it searches when the model calls the tool.
    pub first: bool,
    /// The tool's field, for errors.
    pub at: String,
}

impl ResponseTool {
    /// Returns the tool in the form of the response object.
    pub fn shown(&self) -> Value {
        if is_web_search(&self.kind) {
            let (place, filters) = (self.user_location.as_ref(), self.filters.as_ref());
            return web_search::shown(&self.kind, self.search_context_size, place, filters);
        }
        json!({
            "type": "function", "name": self.name, "description": self.description, "parameters": self.parameters,
            "strict": self.is_strict(),
        })
    }

    /// Returns whether its arguments have to satisfy the schema. As with OpenAI, a tool that does not say so is strict if its
    /// schema is fit for it.
    fn is_strict(&self) -> bool {
        self.strict.unwrap_or_else(|| strict::is_compatible(self.parameters.as_ref()))
    }

    /// Returns the options of a web search tool.
    fn web(&self, index: usize) -> Result<WebTool, ApiError> {
        let at = format!("tools[{index}]");
        let unsupported = |field: &str, allowed: &str| {
            let param = format!("{at}.{field}");
            let message = format!("Unsupported parameter: '{param}' can only be {allowed} on this server.");
            Err(ApiError::unsupported(param, message))
        };
        if self.external_web_access == Some(false) {
            return unsupported("external_web_access", "true");
        }
        if self.search_content_types.iter().flatten().any(|kind| kind != "text") {
            return unsupported("search_content_types", "'text'");
        }
        let (place, filters) = (self.user_location.as_ref(), self.filters.as_ref());
        let options = SearchOptions::new(
            self.search_context_size,
            place,
            filters,
            &at,
            &format!("{at}.user_location"),
        )?;
        Ok(WebTool { options, first: false, at: format!("{at}.type") })
    }
}

/// Returns a tool choice in the form of the response object; `auto` is the default. Web search has several names in
/// requests, but only one of them is among `ToolChoiceTypes` in OpenAI's API description.
pub fn shown_choice(choice: Option<&Value>) -> Value {
    match choice {
        Some(choice) if choice["type"].as_str().is_some_and(is_web_search) => {
            json!({"type": "web_search_preview"})
        }
        Some(choice) => choice.clone(),
        None => json!("auto"),
    }
}

impl Tools {
    /// Checks Responses' fields.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn of_response(
        tools: Option<&[ResponseTool]>,
        choice: Option<&Value>,
        parallel: Option<bool>,
    ) -> Result<Self, ApiError> {
        let mut functions = Vec::new();
        let mut web = None;
        for (index, tool) in tools.unwrap_or_default().iter().cloned().enumerate() {
            if is_web_search(&tool.kind) {
                if web.replace(tool.web(index)?).is_some() {
                    let param = format!("tools[{index}].type");
                    let message = format!("Invalid '{param}': web search is among the tools already.");
                    return Err(ApiError::invalid_value(param, message));
                }
                functions.push(FunctionObject::web_search());
                continue;
            }
            check_kind(&tool.kind, index, "'function' or 'web_search'")?;
            let strict = Some(tool.is_strict());
            let ResponseTool { name, description, parameters, .. } = tool;
            let name = name.ok_or_else(|| ApiError::missing(format!("tools[{index}].name")))?;
            functions.push(FunctionObject { name, description, parameters, strict });
        }
        let names_web = choice.and_then(|choice| choice["type"].as_str()).is_some_and(is_web_search);
        if names_web && web.is_none() {
            let message = "Invalid 'tool_choice': there is no tool 'web_search' in 'tools'.";
            return Err(ApiError::invalid_value("tool_choice", message));
        }
        let is = |word: &str| choice.and_then(Value::as_str) == Some(word);
        // If only web search can be called, the server searches without asking the model: small models are poor at
        // calling tools.
        let first = names_web || (is("required") && web.is_some() && functions.len() == 1);
        if !first {
            let tools = Self::new(functions, choice, parallel, ToolField::Flat)?;
            return Ok(Self { web: web.filter(|_| !is("none")), ..tools });
        }
        // All tools are checked together first, so that an error names the right index.
        Self::new(functions.clone(), None, parallel, ToolField::Flat)?;
        functions.retain(|function| function.name != web_search::FUNCTION);
        let tools = Self::new(functions, None, parallel, ToolField::Flat)?;
        Ok(Self { web: web.map(|web| WebTool { first, ..web }), ..tools })
    }
}

impl FunctionObject {
    /// Returns the function for web search, for models that decide themselves.
    fn web_search() -> Self {
        let query =
            json!({"type": "string", "description": "What to search for, in a few words", "maxLength": 200});
        Self {
            name: web_search::FUNCTION.to_owned(),
            description: Some("Searches the web for what is new or not known.".to_owned()),
            parameters: Some(Map::from_iter([
                ("type".to_owned(), json!("object")),
                ("properties".to_owned(), json!({"query": query})),
                ("required".to_owned(), json!(["query"])),
                ("additionalProperties".to_owned(), json!(false)),
            ])),
            strict: None,
        }
    }
}
