//! Tools: the functions that answers may call, and the final check of a call.
//!
//! Sources: `ChatCompletionTool`, `ChatCompletionToolChoiceOption`, `FunctionTool` and `ToolChoiceParam` in OpenAI's
//! API description. Chat and Responses have the same data in different places, which [`ToolField`] distinguishes.

mod functions;
mod responses_api;
mod strict;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jan_actors::model::{Callable, GenerationError, ToolPlan};

use jan_protocol::output_formats::BareCall;
use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub use self::functions::{ChatTools, FunctionCallShape};
pub use self::responses_api::{ResponseTool, WebTool, shown_choice};
use super::bounds::{self, MAX_DESCRIPTION};
use super::structured_output::{self, CheckedSchema};
use super::web_search::{self, is_web_search};
use crate::http::ApiError;

/// Maximum number of tools in one request, as in OpenAI's API.
const MAX_TOOLS: usize = 128;

/// Maximum size of the schemas of all tools together, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({"type": "function", "function": {
    "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}
}}))]
pub struct ChatTool {
    /// Only `function`.
    #[serde(rename = "type")]
    kind: String,
    /// The function.
    function: Option<FunctionObject>,
}

/// A function.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct FunctionObject {
    /// Its name: letters, digits, `_` and `-`.
    #[schema(max_length = 64, pattern = "^[a-zA-Z0-9_-]+$")]
    name: String,
    /// A description of its purpose, for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The JSON Schema of its arguments; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    /// Its arguments always satisfy the schema. They do so anyway if `tool_choice` requires a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// `none`, `auto` or `required`; or the one function to call; or the permitted ones.
#[derive(ToSchema)]
#[schema(as = ToolChoice)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what is read by hand")]
pub enum ToolChoiceShape {
    /// `none`: no call. `auto`: the model decides. `required`: at least one call.
    Mode(ToolChoiceMode),
    /// `{"type": "function", …}` or `{"type": "allowed_tools", …}`.
    #[schema(value_type = Object)]
    Object(Value),
}

/// The choice of tool calls.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is read by hand")]
pub enum ToolChoiceMode {
    /// No call.
    None,
    /// The model decides.
    Auto,
    /// At least one call.
    Required,
}

/// The position of functions within the tools of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolField {
    /// Chat: the function is an object inside the tool.
    Nested,
    /// Responses: the function is the tool itself.
    Flat,
    /// Chat's deprecated `functions`: the function is the tool itself.
    Functions,
}

/// The tools of a request.
#[derive(Debug, Default)]
pub struct Tools {
    /// The tools that the prompt shows to the model, as chat's wire objects.
    pub shown: Vec<Value>,
    /// The tools that the model may call; `None` if it may call none.
    pub plan: Option<Arc<ToolPlan>>,
    /// The web search tool, if present.
    pub web: Option<WebTool>,
    /// Validators of calls whose arguments are constrained, by name.
    validators: Vec<(String, Validator)>,
    /// The keywords of their schemas that are not enforced during generation.
    pub unenforced: BTreeSet<&'static str>,
    /// Set if they were given as `functions`, so that calls are answered in that form.
    pub old_form: bool,
}

impl Tools {
    /// Checks chat's fields.
    ///
    /// # Errors
    /// 400 that names the field.
    fn of_chat(
        tools: Option<Vec<ChatTool>>,
        choice: Option<&Value>,
        parallel: Option<bool>,
    ) -> Result<Self, ApiError> {
        let mut functions = Vec::new();
        for (index, tool) in tools.unwrap_or_default().into_iter().enumerate() {
            check_kind(&tool.kind, index, "'function' (for web search, 'web_search_options')")?;
            let function =
                tool.function.ok_or_else(|| ApiError::missing(format!("tools[{index}].function")))?;
            functions.push(function);
        }
        Self::new(functions, choice, parallel, ToolField::Nested)
    }

    fn new(
        functions: Vec<FunctionObject>,
        choice: Option<&Value>,
        parallel: Option<bool>,
        field: ToolField,
    ) -> Result<Self, ApiError> {
        if functions.len() > MAX_TOOLS {
            let list = field.list();
            let message =
                format!("Invalid '{list}': at most {MAX_TOOLS} are allowed, got {}.", functions.len());
            return Err(ApiError::invalid_value(list, message));
        }
        let mut names = HashSet::new();
        let mut bytes = 0;
        for (index, function) in functions.iter().enumerate() {
            let at = field.at(index);
            let name = &function.name;
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !plain || !(1..=64).contains(&name.len()) {
                let message = format!("Invalid '{at}name': expected 1 to 64 letters, digits, '_' or '-'.");
                return Err(ApiError::invalid_value(format!("{at}name"), message));
            }
            if !names.insert(name.clone()) {
                let message = format!(
                    "Invalid '{at}name': the name '{name}' is used by another tool; names must be unique."
                );
                return Err(ApiError::invalid_value(format!("{at}name"), message));
            }
            bounds::text(&format!("{at}description"), function.description.as_deref(), MAX_DESCRIPTION)?;
            // Arguments are an object, as in OpenAI's API.
            let kind = function.parameters.as_ref().and_then(|schema| schema.get("type"));
            if kind.is_some_and(|kind| kind != "object") {
                let place = format!("{at}parameters.type");
                let message = format!("Invalid '{place}': expected 'object', the type of arguments.");
                return Err(ApiError::invalid_value(place, message));
            }
            bytes += function.parameters.as_ref().map_or(0, |schema| json!(schema).to_string().len());
        }
        if bytes > MAX_BYTES {
            let list = field.list();
            let message = format!(
                "Invalid '{list}': their parameters have {bytes} bytes, and {MAX_BYTES} are allowed."
            );
            return Err(ApiError::invalid_value(list, message));
        }
        let choice = Choice::read(choice, field, &functions)?;
        let shown: Vec<Value> =
            functions.iter().map(|function| json!({"type": "function", "function": function})).collect();
        if choice.mode == Mode::None || functions.is_empty() {
            // They stay in the prompt, whose beginning then is the one of the turns before.
            return Ok(Self { shown, ..Self::default() });
        }
        let required = choice.mode == Mode::Required;
        let callable = |function: &&FunctionObject| match &choice.only {
            Some(only) => only.contains(&function.name),
            None => true,
        };
        let mut callable: Vec<Callable> =
            functions.iter().filter(callable).map(FunctionObject::callable).collect();
        let guided = choice.only.is_some() || callable.iter().any(|tool| tool.strict);
        let mut validators = Vec::new();
        let mut unenforced = BTreeSet::new();
        for (index, function) in functions.iter().enumerate() {
            let Some(tool) = callable.iter_mut().find(|tool| tool.name == function.name) else { continue };
            if !required && !tool.strict {
                continue;
            }
            let checked = CheckedSchema::new(&tool.parameters).and_then(|schema| {
                if tool.strict { schema.require_all().map(|()| schema) } else { Ok(schema) }
            });
            match checked {
                Ok(schema) => {
                    unenforced.extend(schema.unenforced);
                    tool.enforced = Some(schema.enforced);
                    validators.push((tool.name.clone(), schema.validator));
                }
                Err(error) if tool.strict => {
                    let place = format!("{}parameters", field.at(index));
                    let message = format!("Invalid '{place}': not a usable JSON Schema: {error}");
                    return Err(ApiError::invalid_value(place, message));
                }
                // The schemas of tools are often not the caller's: one that is none is no reason to refuse all.
                Err(_) => {
                    unenforced.insert("parameters");
                    tool.enforced = Some(json!({"type": "object"}));
                }
            }
        }
        // The others are held to their schemas as far as possible once the model has begun a call.
        let mut begun: Vec<&mut Callable> =
            callable.iter_mut().filter(|tool| tool.enforced.is_none()).collect();
        let enforceable = CheckedSchema::enforceable(begun.iter().map(|tool| &tool.parameters));
        begun.iter_mut().zip(enforceable).for_each(|(tool, enforced)| tool.enforced = enforced);
        let parallel = parallel.unwrap_or(true) && !choice.named;
        Ok(Self {
            shown,
            plan: Some(Arc::new(ToolPlan { callable, required, parallel, guided })),
            web: None,
            validators,
            unenforced,
            old_form: false,
        })
    }

    /// Returns the field that they were given in.
    pub const fn field(&self) -> &'static str {
        if self.old_form { ToolField::Functions.list() } else { ToolField::Nested.list() }
    }

    /// Returns the policy for the calls of an answer. `is_free`: no format of its text is requested.
    pub fn call_policy(self, is_free: bool) -> ToolCallPolicy {
        ToolCallPolicy {
            one_call: self.plan.as_ref().is_some_and(|plan| !plan.parallel),
            validators: self.validators,
            bare: self.plan.filter(|plan| is_free && !plan.required),
        }
    }
}

/// The policy for the tool calls of an answer.
#[derive(Debug, Default)]
pub struct ToolCallPolicy {
    /// Set if calls after the first are left out.
    pub one_call: bool,
    validators: Vec<(String, Validator)>,
    /// The tools that an answer may call by consisting of one call as a JSON object; `None` if there are none.
    bare: Option<Arc<ToolPlan>>,
}

impl ToolCallPolicy {
    /// Makes calls optional: only the arguments of strict tools are still held to their schema.
    pub fn relax(&mut self, plan: &ToolPlan) {
        let strict = |name: &String| plan.callable.iter().any(|tool| tool.name == *name && tool.strict);
        self.validators.retain(|(name, _)| strict(name));
    }

    /// Returns the reader of an answer that may be one call as a JSON object.
    pub fn bare_call(&self) -> Option<BareCall> {
        let plan = self.bare.as_ref()?;
        Some(BareCall::new(plan.callable.iter().map(|tool| tool.name.clone())))
    }

    /// Returns whether a tool's schema accepts these arguments of such a call.
    pub fn accepts(&self, name: &str, arguments: &str) -> bool {
        let tool = self.bare.iter().flat_map(|plan| &plan.callable).find(|tool| tool.name == name);
        tool.and_then(|tool| CheckedSchema::new(&tool.parameters).ok())
            .is_some_and(|schema| structured_output::satisfies(arguments, &schema.validator).is_ok())
    }

    /// Checks a finished call. The engine enforces the schema during generation; a call is passed on as complete only
    /// if this check confirms it.
    ///
    /// # Errors
    /// [`GenerationError::InvalidOutput`] with the violation.
    pub fn check(&self, name: &str, arguments: &str) -> Result<(), GenerationError> {
        let Some((_, validator)) = self.validators.iter().find(|(known, _)| known == name) else {
            return Ok(());
        };
        structured_output::satisfies(arguments, validator).map_err(|message| GenerationError::InvalidOutput {
            message: format!("the arguments of '{name}': {message}"),
        })
    }
}

impl ToolField {
    fn at(self, index: usize) -> String {
        match self {
            Self::Nested => format!("tools[{index}].function."),
            Self::Flat | Self::Functions => format!("{}[{index}].", self.list()),
        }
    }

    /// The field with the list.
    const fn list(self) -> &'static str {
        match self {
            Self::Nested | Self::Flat => "tools",
            Self::Functions => "functions",
        }
    }
}

impl FunctionObject {
    fn callable(&self) -> Callable {
        let mut parameters = self.parameters.clone().unwrap_or_default();
        // Arguments are always an object; a function without parameters takes an empty one.
        if parameters.is_empty() {
            parameters = Map::from_iter([
                ("properties".to_owned(), json!({})),
                ("additionalProperties".to_owned(), json!(false)),
            ]);
        }
        if !parameters.contains_key("type") {
            parameters.insert("type".to_owned(), json!("object"));
        }
        let strict = self.strict.unwrap_or(false);
        Callable { name: self.name.clone(), parameters: Value::Object(parameters), enforced: None, strict }
    }
}

fn check_kind(kind: &str, index: usize, allowed: &str) -> Result<(), ApiError> {
    if kind == "function" {
        return Ok(());
    }
    let param = format!("tools[{index}].type");
    let message = format!("Unsupported parameter: tools of type '{kind}' are not supported; use {allowed}.");
    Err(ApiError::unsupported(param, message))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    Auto,
    Required,
}

struct Choice {
    mode: Mode,
    /// The names that may be called; `None` for all.
    only: Option<Vec<String>>,
    /// Set if the choice is a call of the only one.
    named: bool,
}

impl Choice {
    fn read(
        choice: Option<&Value>,
        field: ToolField,
        functions: &[FunctionObject],
    ) -> Result<Self, ApiError> {
        let wrong = |param: &str, message: &str| {
            ApiError::invalid_value(param, format!("Invalid '{param}': {message}"))
        };
        let all = |mode| Ok(Self { mode, only: None, named: false });
        let Some(choice) = choice.filter(|choice| !choice.is_null()) else { return all(Mode::Auto) };
        if field == ToolField::Functions {
            return Self::of_function_call(choice, functions);
        }
        if let Some(word) = choice.as_str() {
            let mode = match word {
                "none" => Mode::None,
                "auto" => Mode::Auto,
                "required" if functions.is_empty() => {
                    return Err(wrong("tool_choice", "'required', but there are no 'tools'."));
                }
                "required" => Mode::Required,
                _ => return Err(wrong("tool_choice", "expected 'none', 'auto', 'required' or an object.")),
            };
            return all(mode);
        }
        let Some(object) = choice.as_object() else {
            let message =
                "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or an object.";
            return Err(ApiError::invalid_type(Some("tool_choice".to_owned()), message));
        };
        let known = |name: String, param: &str| {
            if functions.iter().any(|function| function.name == name) {
                return Ok(name);
            }
            Err(wrong(param, &format!("there is no tool '{name}' in 'tools'.")))
        };
        match object.get("type").and_then(Value::as_str) {
            Some("function") => {
                let name = field.name_in(choice, "tool_choice")?;
                Ok(Self { mode: Mode::Required, only: Some(vec![known(name, "tool_choice")?]), named: true })
            }
            Some("allowed_tools") => {
                let (inner, place) = match field {
                    ToolField::Nested => (&choice["allowed_tools"], "tool_choice.allowed_tools"),
                    ToolField::Flat | ToolField::Functions => (choice, "tool_choice"),
                };
                let mode = match inner["mode"].as_str() {
                    Some("auto") => Mode::Auto,
                    Some("required") => Mode::Required,
                    _ => return Err(wrong(&format!("{place}.mode"), "expected 'auto' or 'required'.")),
                };
                let place = format!("{place}.tools");
                let Some(tools) = inner["tools"].as_array().filter(|tools| !tools.is_empty()) else {
                    return Err(wrong(&place, "expected at least one tool."));
                };
                let mut only = Vec::new();
                for (index, tool) in tools.iter().enumerate() {
                    let at = format!("{place}[{index}]");
                    only.push(known(field.name_in(tool, &at)?, &at)?);
                }
                Ok(Self { mode, only: Some(only), named: false })
            }
            Some(kind) => {
                let message = format!(
                    "Unsupported parameter: tool choices of type '{kind}' are not supported; use 'function' or 'allowed_tools'."
                );
                Err(ApiError::unsupported("tool_choice.type", message))
            }
            None => Err(wrong("tool_choice.type", "expected 'function' or 'allowed_tools'.")),
        }
    }
}

impl ToolField {
    fn name_in(self, tool: &Value, at: &str) -> Result<String, ApiError> {
        let (name, place) = match self {
            Self::Nested => (&tool["function"]["name"], format!("{at}.function.name")),
            Self::Flat if tool["type"].as_str().is_some_and(is_web_search) => {
                return Ok(web_search::FUNCTION.to_owned());
            }
            Self::Flat | Self::Functions => (&tool["name"], format!("{at}.name")),
        };
        let name = name.as_str().map(str::to_owned);
        name.ok_or_else(|| ApiError::missing(place))
    }
}
