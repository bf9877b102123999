//! Alternatives of which exactly one may hold, and conditions.

use serde_json::{Map, Value, json};

use super::decimal::equal;
use super::enforce::{At, Enforce, MAX_COMBINATIONS};
use super::negation::{any_of, negated};
use super::{SchemaError, accepts_all, weight};

/// Maximum number of alternatives of which each is compared with each.
const MAX_COMPARED: usize = 64;

impl Enforce<'_> {
    pub(super) fn one_of(
        &mut self,
        fields: &Map<String, Value>,
        value: &Value,
        at: At,
    ) -> Result<Value, SchemaError> {
        let Some(options) = value.as_array() else { return Ok(Value::Bool(true)) };
        // What every option is joined with: it can tell them apart.
        let mut base = Map::new();
        for keyword in ["type", "required", "properties", "additionalProperties", "$ref"] {
            if let Some(value) = fields.get(keyword) {
                let large = value.as_object().is_some_and(|named| named.len() > 200);
                if !large {
                    base.insert(keyword.to_owned(), value.clone());
                }
            }
        }
        let base = Value::Object(base);
        let count = options.len();
        let pairs = if count > MAX_COMPARED { 0 } else { count * count / 2 };
        self.judge.spend(weight(&base) + count + pairs);
        let overlaps = |a: &Value, b: &Value| !self.judge.disjoint(&[a, &base], &[b, &base]);
        let mut overlapping: Vec<Vec<usize>> = vec![Vec::new(); count];
        for a in 0..count {
            for b in a + 1..count {
                if count > MAX_COMPARED || overlaps(&options[a], &options[b]) {
                    overlapping[a].push(b);
                    overlapping[b].push(a);
                }
            }
        }
        if overlapping.iter().all(Vec::is_empty) {
            return self.options(options, at.beside());
        }
        match self.alone(options, &overlapping) {
            Some(alone) => self.options(&alone, at.beside()),
            None => {
                self.report("oneOf");
                self.options(options, at.beside())
            }
        }
    }

    /// Each option without the values of those that it overlaps with; `None` if there is no such form.
    fn alone(&self, options: &[Value], overlapping: &[Vec<usize>]) -> Option<Vec<Value>> {
        let mut alone = Vec::new();
        let mut size = 0;
        for (option, others) in options.iter().zip(overlapping) {
            if others.iter().any(|&other| equal(option, &options[other])) {
                continue;
            }
            if !self.judge.spend(weight(option)) {
                return None;
            }
            let mut all = vec![option.clone()];
            for &other in others {
                let opposite = negated(&options[other], &self.judge)?;
                size += opposite.len();
                all.push(any_of(opposite));
            }
            if size > MAX_COMBINATIONS {
                return None;
            }
            alone.push(if all.len() == 1 { all.remove(0) } else { json!({"allOf": all}) });
        }
        Some(alone)
    }

    fn options(&mut self, options: &[Value], at: At) -> Result<Value, SchemaError> {
        let mut all = Vec::new();
        for option in options {
            let option = self.schema(option, at)?;
            if accepts_all(&option) {
                return Ok(Value::Bool(true));
            }
            if option != Value::Bool(false) {
                all.push(option);
            }
        }
        Ok(any_of(all))
    }

    pub(super) fn conditional(
        &mut self,
        fields: &Map<String, Value>,
        test: &Value,
        at: At,
    ) -> Result<Value, SchemaError> {
        let branch = |keyword: &str| fields.get(keyword).cloned().unwrap_or(Value::Bool(true));
        self.judge.spend(weight(test) + fields.get("then").map_or(0, weight));
        let then = json!({"allOf": [test, branch("then")]});
        let mut options = vec![then];
        match negated(test, &self.judge) {
            Some(opposite) => {
                self.judge.spend(opposite.len() * fields.get("else").map_or(1, weight));
                options.extend(opposite.into_iter().map(|other| json!({"allOf": [other, branch("else")]})));
            }
            None => {
                self.report("if");
                options.push(branch("else"));
            }
        }
        self.options(&options, at.beside())
    }
}
