//! The constraints that an answer is kept in: that of its text, and the form of its calls.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use jan_protocol::output_formats::{CallMark, GrammarMode, Layout, ToolFormat, tool_grammar};
use jan_protocol::report::Rejection;
use jan_protocol::schema::TOOL_DEFECT;
use jan_protocol::types::{Callable, Constraint, ToolPlan};
use serde_json::{Value, json};

use super::Preparer;
use crate::decode::constraint::with_layout;
use crate::decode::phases::{Keep, WholeCalls};
use crate::llama::Model;

/// Lists of tools that are remembered with those whose schemas cannot be enforced.
const MAX_REMEMBERED: usize = 64;

/// The tools, by the hash of all of a request, whose schemas turned out not to be enforceable.
#[derive(Debug, Default)]
pub struct Unenforced(VecDeque<(u64, Arc<[bool]>)>);

impl Unenforced {
    fn find(&self, tools: u64) -> Option<Arc<[bool]>> {
        self.0.iter().find(|(known, _)| *known == tools).map(|(_, flags)| Arc::clone(flags))
    }

    fn remember(&mut self, tools: u64, flags: Arc<[bool]>) {
        self.0.retain(|(known, _)| *known != tools);
        if self.0.len() >= MAX_REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((tools, flags));
    }
}

impl Preparer {
    /// Returns the constraints that the answer is kept in.
    pub(super) fn keep(
        &self,
        model: &Arc<Model>,
        constraint: Option<&Constraint>,
        tools: Option<&ToolPlan>,
        layout: &Layout,
    ) -> Result<Keep, Rejection> {
        match (tools, layout.tools) {
            (Some(plan), Some(format)) if layout.enforced => self.keep_calls(model, plan, format, constraint),
            (Some(plan), Some(format)) if constraint.is_none() => {
                Ok(self.keep_begun_calls(model, plan, format))
            }
            _ => Ok(match constraint {
                Some(constraint) => {
                    Keep::Whole { guide: self.guide(model, constraint)?, calls: WholeCalls::None }
                }
                None => Keep::Free,
            }),
        }
    }

    /// Keeps calls in their form, with a guarantee.
    fn keep_calls(
        &self,
        model: &Arc<Model>,
        plan: &ToolPlan,
        format: ToolFormat,
        constraint: Option<&Constraint>,
    ) -> Result<Keep, Rejection> {
        let syntax = format.syntax();
        let answer = match constraint {
            Some(Constraint::JsonSchema(schema)) if !plan.required => {
                let schema =
                    serde_json::from_str(schema).map_err(|error| Rejection::Internal(error.to_string()))?;
                Some(with_layout(&schema))
            }
            _ => None,
        };
        let mode = match syntax.trigger() {
            _ if plan.required => GrammarMode::Whole,
            _ if answer.is_some() => GrammarMode::WholeOrAnswer,
            Some(_) => GrammarMode::BehindTrigger,
            None => GrammarMode::WholeOrText,
        };
        let is_free = |tool: &Callable| !plan.required && !tool.strict;
        let schemas = schemas(plan, is_free);
        let grammar = self.calls_grammar(format, &schemas, plan.parallel, mode, answer.as_ref());
        let guide = self.guide(model, &grammar).map_err(|rejection| {
            // Finds the schema with the defect.
            for (name, schema) in &schemas {
                let alone = Constraint::JsonSchema(schema.to_string());
                let named = |message| format!("{TOOL_DEFECT}{name}': {message}");
                match self.guide(model, &alone) {
                    Err(Rejection::InvalidConstraint(message)) => {
                        return Rejection::InvalidConstraint(named(message));
                    }
                    Err(Rejection::ConstraintTooExpensive(message)) => {
                        return Rejection::ConstraintTooExpensive(named(message));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            rejection
        })?;
        let behind = mode == GrammarMode::BehindTrigger;
        Ok(match syntax.trigger().filter(|_| behind) {
            Some(trigger) => {
                let marks = [CallMark::trigger(trigger)].into();
                Keep::Behind { marks, guide, once: !plan.parallel, lenient: false }
            }
            None => {
                let calls = match mode {
                    GrammarMode::Whole => WholeCalls::All,
                    GrammarMode::WholeOrText => {
                        WholeCalls::Beginning(syntax.opening().chars().take(1).collect())
                    }
                    _ => WholeCalls::Beginning(syntax.opening()),
                };
                Keep::Whole { guide, calls }
            }
        })
    }

    /// Keeps calls that the model begins by itself in their form, as far as that is possible: the arguments of tools whose
    /// schemas cannot be enforced are any object.
    fn keep_begun_calls(&self, model: &Arc<Model>, plan: &ToolPlan, format: ToolFormat) -> Keep {
        let guide = |unenforced: &[bool]| self.guide(model, &self.begun_calls(plan, format, unenforced));
        let key = hash(plan);
        let known = self.unenforced.lock().unwrap_or_else(PoisonError::into_inner).find(key);
        let found = match guide(known.as_deref().unwrap_or_default()) {
            Ok(guide) => Some(guide),
            Err(Rejection::InvalidConstraint(_) | Rejection::ConstraintTooExpensive(_)) => {
                let unenforced = self.find_unenforced(model, plan);
                let found = guide(&unenforced);
                let all: Arc<[bool]> = vec![true; plan.callable.len()].into();
                let (unenforced, found) = match found {
                    Ok(found) => (unenforced, Ok(found)),
                    Err(_) => (Arc::clone(&all), guide(&all)),
                };
                self.unenforced.lock().unwrap_or_else(PoisonError::into_inner).remember(key, unenforced);
                found.ok()
            }
            Err(_) => None,
        };
        match found {
            Some(guide) => {
                let marks = format.call_marks(plan.callable.iter().map(|tool| tool.name.as_str())).into();
                Keep::Behind { marks, guide, once: !plan.parallel, lenient: true }
            }
            None => Keep::Free,
        }
    }

    /// Returns which of the tools' schemas cannot be enforced; all of them where that takes long to find out.
    fn find_unenforced(&self, model: &Arc<Model>, plan: &ToolPlan) -> Arc<[bool]> {
        let mut unenforced = Vec::with_capacity(plan.callable.len());
        for tool in &plan.callable {
            let alone = Constraint::JsonSchema(with_layout(enforced(tool)).to_string());
            match self.guide(model, &alone) {
                Ok(_) => unenforced.push(false),
                Err(Rejection::InvalidConstraint(_)) => unenforced.push(true),
                Err(_) => return vec![true; plan.callable.len()].into(),
            }
        }
        unenforced.into()
    }

    /// Returns the form of calls that the model begins by itself.
    fn begun_calls(&self, plan: &ToolPlan, format: ToolFormat, unenforced: &[bool]) -> Constraint {
        let mut flags = unenforced.iter().copied();
        let schemas = schemas(plan, |_| flags.next().unwrap_or(false));
        Constraint::Lark(format.begun_grammar(&schemas, plan.parallel, &|text| self.control_token(text)))
    }

    /// Returns the form of calls that a request's answer may begin by itself, as it is to be compiled.
    pub(super) fn begun_calls_of(&self, plan: &ToolPlan) -> Option<Constraint> {
        let format = self.formats.tools?;
        let known = self.unenforced.lock().unwrap_or_else(PoisonError::into_inner).find(hash(plan));
        Some(self.begun_calls(plan, format, known.as_deref().unwrap_or_default()))
    }

    fn calls_grammar(
        &self,
        format: ToolFormat,
        schemas: &[(String, Value)],
        parallel: bool,
        mode: GrammarMode,
        answer: Option<&Value>,
    ) -> Constraint {
        let syntax = format.syntax();
        // If each call has a mark of its own, the next one's opens it again.
        let many = parallel && (mode != GrammarMode::BehindTrigger || syntax.has_section());
        Constraint::Lark(tool_grammar(syntax, schemas, many, mode, answer, &|text| self.control_token(text)))
    }

    /// Returns the token of a text that is a control token of the model's formats.
    fn control_token(&self, text: &str) -> Option<i32> {
        self.shown.iter().find(|(_, shown)| shown == text.as_bytes()).map(|(token, _)| *token)
    }
}

/// Names and schemas of the tools; those of free ones are any object.
fn schemas(plan: &ToolPlan, mut is_free: impl FnMut(&Callable) -> bool) -> Vec<(String, Value)> {
    let mut schema = |tool: &Callable| {
        let schema = if is_free(tool) { json!({"type": "object"}) } else { enforced(tool).clone() };
        (tool.name.clone(), with_layout(&schema))
    };
    plan.callable.iter().map(&mut schema).collect()
}

/// The part of a tool's schema that is enforced.
fn enforced(tool: &Callable) -> &Value {
    tool.enforced.as_ref().unwrap_or(&tool.parameters)
}

fn hash(plan: &ToolPlan) -> u64 {
    let mut hasher = DefaultHasher::new();
    for tool in &plan.callable {
        tool.name.hash(&mut hasher);
        tool.parameters.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_of_the_latest_requests_are_remembered() {
        let mut unenforced = Unenforced::default();
        for key in 0..MAX_REMEMBERED as u64 + 1 {
            unenforced.remember(key, vec![key % 2 == 0].into());
        }
        unenforced.remember(7, vec![true, true].into());
        assert_eq!(unenforced.0.len(), MAX_REMEMBERED);
        assert_eq!(unenforced.find(0), None);
        assert_eq!(unenforced.find(7).as_deref(), Some(&[true, true][..]));
        assert_eq!(unenforced.find(8).as_deref(), Some(&[true][..]));
    }

    #[test]
    fn free_tools_take_any_object() {
        let tool = |name: &str| Callable {
            name: name.to_owned(),
            parameters: json!({"type": "object", "required": ["a"]}),
            enforced: None,
            strict: false,
        };
        let callable = vec![tool("a"), tool("b")];
        let plan = ToolPlan { callable, required: false, parallel: true, guided: false };
        let schemas = schemas(&plan, |tool| tool.name == "b");
        assert_eq!(schemas[0].1, with_layout(&json!({"type": "object", "required": ["a"]})));
        assert_eq!(schemas[1].1, with_layout(&json!({"type": "object"})));
    }
}
