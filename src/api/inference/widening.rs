//! Wider constraints in place of those that the engine cannot enforce.
//!
//! Schemas are normalised before the engine sees them, but what it can enforce is known for certain only after it has
//! compiled them. A schema that it refuses, other than as a contradiction or for its cost, is replaced by a wider one,
//! unless its caller asked for all of it; finished answers are checked against the whole schema.

use std::collections::BTreeSet;
use std::sync::Arc;

use jan_actors::model::schema::{TOOL_DEFECT, UNSATISFIABLE, relaxed};
use jan_actors::model::{GenerationError, GenerationRequest, ToolPlan};
use serde_json::json;

use super::structured_output::Structured;

/// Replaces the constraint that caused an error. Returns the keywords that are not enforced any more; `None` if the
/// error stays.
pub fn widen(
    error: &GenerationError,
    requests: &mut [GenerationRequest],
    structured: Option<&mut Structured>,
) -> Option<BTreeSet<&'static str>> {
    let GenerationError::InvalidConstraint { message, .. } = error else { return None };
    if message.contains(UNSATISFIABLE) {
        return None;
    }
    if let Some(rest) = message.strip_prefix(TOOL_DEFECT) {
        let name = rest.split('\'').next().unwrap_or_default();
        let (plan, dropped) = wider_tool(requests.first()?.tools.as_deref()?, name)?;
        let plan = Arc::new(plan);
        requests.iter_mut().for_each(|request| request.tools = Some(Arc::clone(&plan)));
        return Some(dropped);
    }
    let structured = structured?;
    if !structured.widen() {
        return None;
    }
    for request in requests {
        request.constraint = Some(Arc::clone(&structured.constraint));
    }
    Some(structured.unenforced.clone())
}

/// Returns the plan with a wider schema of one tool; `None` if its arguments must satisfy all of it, or if any object
/// is refused, too.
fn wider_tool(plan: &ToolPlan, name: &str) -> Option<(ToolPlan, BTreeSet<&'static str>)> {
    let mut plan = plan.clone();
    let tool = plan.callable.iter_mut().find(|tool| tool.name == name && !tool.strict)?;
    let schema = tool.enforced.as_ref().unwrap_or(&tool.parameters);
    let any = json!({"type": "object"});
    if *schema == any {
        return None;
    }
    let (mut wider, mut dropped) = relaxed(schema, 0);
    if wider == *schema || wider.get("type").is_none_or(|own| own != "object") {
        (wider, dropped) = (any, relaxed(schema, 1).1);
    }
    tool.enforced = Some(wider);
    Some((plan, dropped))
}

#[cfg(test)]
mod tests {
    use jan_actors::model::Callable;

    use super::*;

    fn plan(strict: bool) -> ToolPlan {
        let parameters = json!({"type": "object", "properties": {"a": {"pattern": "x"}}, "required": ["a"]});
        let tool = Callable { name: "f".to_owned(), parameters, enforced: None, strict };
        ToolPlan { callable: vec![tool], required: true, parallel: false, guided: false }
    }

    #[test]
    fn a_tool_gives_way_in_steps() {
        let (plan, dropped) = wider_tool(&plan(false), "f").unwrap();
        assert!(dropped.contains("pattern"));
        assert_eq!(
            plan.callable[0].enforced,
            Some(json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}))
        );
        let (plan, dropped) = wider_tool(&plan, "f").unwrap();
        assert!(dropped.contains("required"));
        assert_eq!(plan.callable[0].enforced, Some(json!({"type": "object"})));
        assert!(wider_tool(&plan, "f").is_none());
    }

    #[test]
    fn strict_tools_and_others_stay() {
        assert!(wider_tool(&plan(true), "f").is_none());
        assert!(wider_tool(&plan(false), "g").is_none());
    }
}
