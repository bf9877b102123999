//! Chat's deprecated `functions` and `function_call`: tools as they were until November 2023, which some clients still send.
//!
//! Sources: `ChatCompletionFunctions` and `ChatCompletionFunctionCallOption` in OpenAI's API description.

use serde_json::Value;
use utoipa::ToSchema;

use super::{ChatTool, Choice, FunctionObject, Mode, ToolField, Tools};
use crate::http::ApiError;

/// The field that chooses the call.
const CHOICE: &str = "function_call";

/// `none` or `auto`; or the one function to call.
#[derive(ToSchema)]
#[schema(as = FunctionCallChoice)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what is read by hand")]
pub enum FunctionCallShape {
    /// `none`: no call. `auto`: the model decides.
    Mode(FunctionCallMode),
    /// The function to call.
    Named(NamedFunction),
}

/// The choice of a call.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes what is read by hand")]
pub enum FunctionCallMode {
    /// No call.
    None,
    /// The model decides.
    Auto,
}

/// The function to call.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what is read by hand")]
pub struct NamedFunction {
    /// Its name.
    name: String,
}

/// Chat's fields about tools, in both forms.
#[derive(Debug, Default)]
pub struct ChatTools {
    /// `tools`
    pub tools: Option<Vec<ChatTool>>,
    /// `tool_choice`
    pub tool_choice: Option<Value>,
    /// `parallel_tool_calls`
    pub parallel: Option<bool>,
    /// `functions`
    pub functions: Option<Vec<FunctionObject>>,
    /// `function_call`
    pub function_call: Option<Value>,
}

impl ChatTools {
    /// Checks the fields, of which a request may use one form.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check(self) -> Result<Tools, ApiError> {
        let Self { tools, tool_choice, parallel, functions, function_call } = self;
        let has_tools = tools.as_ref().is_some_and(|tools| !tools.is_empty());
        let Some(functions) = functions.filter(|functions| !functions.is_empty()) else {
            if has_tools {
                only_default(function_call.as_ref(), CHOICE, "functions", "'tool_choice' with 'tools'")?;
            } else {
                Choice::read(function_call.as_ref(), ToolField::Functions, &[])?;
            }
            return Tools::of_chat(tools, tool_choice.as_ref(), parallel);
        };
        if has_tools {
            let message = "'functions' and 'tools' are mutually exclusive; send only 'tools'.";
            return Err(ApiError::invalid_value("functions", message));
        }
        only_default(tool_choice.as_ref(), "tool_choice", "tools", "'function_call' with 'functions'")?;
        // Messages have room for one call in this form.
        let tools = Tools::new(functions, function_call.as_ref(), Some(false), ToolField::Functions)?;
        Ok(Tools { old_form: true, ..tools })
    }
}

/// Refuses a choice of the other form, unless it asks for the default.
fn only_default(choice: Option<&Value>, field: &str, list: &str, instead: &str) -> Result<(), ApiError> {
    match choice {
        None | Some(Value::Null) => Ok(()),
        Some(choice) if choice == "auto" => Ok(()),
        Some(_) => {
            let message = format!("Invalid '{field}': it belongs to '{list}'; use {instead}.");
            Err(ApiError::invalid_value(field, message))
        }
    }
}

impl Choice {
    /// Reads `function_call`.
    pub(super) fn of_function_call(choice: &Value, functions: &[FunctionObject]) -> Result<Self, ApiError> {
        const EXPECTED: &str = "expected 'none', 'auto' or an object with 'name'";
        let wrong = |param: &str, message: &str| {
            ApiError::invalid_value(param, format!("Invalid '{param}': {message}."))
        };
        let all = |mode| Ok(Self { mode, only: None, named: false });
        match choice {
            Value::String(word) if word == "none" => all(Mode::None),
            Value::String(word) if word == "auto" => all(Mode::Auto),
            Value::String(_) => Err(wrong(CHOICE, EXPECTED)),
            Value::Object(object) => {
                let place = format!("{CHOICE}.name");
                let name = match object.get("name") {
                    Some(Value::String(name)) => name,
                    None | Some(Value::Null) => return Err(ApiError::missing(place)),
                    Some(_) => {
                        let message = format!("Invalid value for '{place}': expected a string.");
                        return Err(ApiError::invalid_type(Some(place), message));
                    }
                };
                if !functions.iter().any(|function| function.name == *name) {
                    // The name is the caller's, of any length.
                    return Err(wrong(&place, "there is no function of that name in 'functions'"));
                }
                Ok(Self { mode: Mode::Required, only: Some(vec![name.clone()]), named: true })
            }
            _ => {
                let message = format!("Invalid value for '{CHOICE}': {EXPECTED}.");
                Err(ApiError::invalid_type(Some(CHOICE.to_owned()), message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(fields: &Value) -> Result<Tools, ApiError> {
        let list = |name: &str| fields.get(name).filter(|value| !value.is_null()).cloned();
        let read = ChatTools {
            tools: list("tools").map(|tools| serde_json::from_value(tools).unwrap()),
            tool_choice: list("tool_choice"),
            parallel: fields["parallel_tool_calls"].as_bool(),
            functions: list("functions").map(|functions| serde_json::from_value(functions).unwrap()),
            function_call: list("function_call"),
        };
        read.check()
    }

    fn refused(fields: &Value) -> (&'static str, String) {
        let error = checked(fields).expect_err(&fields.to_string());
        assert_eq!(error.status(), 400);
        (error.code(), error.param().unwrap_or_default().to_owned())
    }

    fn function(name: &str) -> Value {
        json!({"name": name, "description": "d", "parameters": {"type": "object", "properties": {}}})
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": function(name)})
    }

    #[test]
    fn functions_are_tools_of_which_one_is_called() {
        let old = checked(&json!({"functions": [function("f"), function("g")]})).unwrap();
        let new = checked(&json!({"tools": [tool("f"), tool("g")], "parallel_tool_calls": false})).unwrap();
        assert_eq!(old.shown, new.shown);
        assert_eq!(old.plan, new.plan);
        assert!(old.old_form && !new.old_form);
        assert_eq!((old.field(), new.field()), ("functions", "tools"));
    }

    #[test]
    fn a_named_function_has_to_be_called() {
        let fields = json!({"functions": [function("f"), function("g")], "function_call": {"name": "g"}});
        let plan = checked(&fields).unwrap().plan.unwrap();
        let names: Vec<&str> = plan.callable.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!((plan.required, plan.parallel, names.as_slice()), (true, false, &["g"][..]));
        let none = json!({"functions": [function("f")], "function_call": "none"});
        let none = checked(&none).unwrap();
        assert!(none.plan.is_none() && none.shown.len() == 1);
    }

    #[test]
    fn choices_without_effect_are_accepted() {
        for fine in [
            json!({"functions": [], "function_call": "none"}),
            json!({"function_call": "auto"}),
            json!({"function_call": null, "functions": null}),
            json!({"tools": [tool("f")], "functions": [], "function_call": "auto"}),
            json!({"tools": [], "tool_choice": "auto", "functions": [function("f")]}),
            json!({"functions": [function("f")], "tool_choice": null, "parallel_tool_calls": true}),
        ] {
            assert!(checked(&fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let many: Vec<Value> = (0..129).map(|number| function(&format!("f{number}"))).collect();
        let large = json!({"type": "object", "description": "x".repeat(300_000)});
        let with = |choice: Value| json!({"functions": [function("f")], "function_call": choice});
        for (fields, param) in [
            (json!({"functions": [function("f")], "tools": [tool("f")]}), "functions"),
            (json!({"functions": many}), "functions"),
            (json!({"functions": [{"name": "f", "parameters": large}]}), "functions"),
            (json!({"functions": [function("f"), function("f")]}), "functions[1].name"),
            (json!({"functions": [function("a b")]}), "functions[0].name"),
            (
                json!({"functions": [{"name": "f", "parameters": {"type": "array"}}]}),
                "functions[0].parameters.type",
            ),
            (with(json!("required")), "function_call"),
            (with(json!(1)), "function_call"),
            (with(json!(["f"])), "function_call"),
            (with(json!({})), "function_call.name"),
            (with(json!({"name": 1})), "function_call.name"),
            (with(json!({"name": "g"})), "function_call.name"),
            (json!({"function_call": {"name": "f"}}), "function_call.name"),
            (json!({"function_call": "required"}), "function_call"),
            (json!({"tools": [tool("f")], "function_call": {"name": "f"}}), "function_call"),
            (json!({"tools": [tool("f")], "function_call": "none"}), "function_call"),
            (json!({"functions": [function("f")], "tool_choice": "required"}), "tool_choice"),
            (json!({"functions": [function("f")], "tool_choice": "none"}), "tool_choice"),
        ] {
            assert_eq!(refused(&fields).1, param, "{fields}");
        }
    }
}
