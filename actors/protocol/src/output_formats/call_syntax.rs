//! Constrained calls: their syntax, the grammar that constrains them, and the parser that passes their arguments on
//! while they are generated.

use serde_json::Value;

use super::Tool;
use super::part::{Part, held_prefix};
use crate::schema::exact;

/// Syntax of constrained calls: `open`, calls of `before` name `between` arguments `after` with `separator` between them,
/// `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSyntax {
    /// Beginning and end of a text that may precede the calls of an answer (gpt-oss reasons there).
    pub(super) preamble: Option<(&'static str, &'static str)>,
    pub(super) open: &'static str,
    pub(super) before: &'static str,
    pub(super) between: &'static str,
    pub(super) after: &'static str,
    /// `None` where a model makes one call at a time.
    pub(super) separator: Option<&'static str>,
    pub(super) close: &'static str,
    /// `true` if the name is followed by `:` and a number.
    pub(super) numbered: bool,
    /// Text behind which free text becomes a call; `None` where a call is the whole answer and begins with `{`.
    pub(super) trigger: Option<&'static str>,
    /// Syntax of calls that a model makes of its own accord, if it was taught another than JSON.
    pub(super) named: Option<&'static NamedArguments>,
}

impl CallSyntax {
    pub(super) const EMPTY: Self = Self {
        preamble: None,
        open: "",
        before: "",
        between: "",
        after: "",
        separator: None,
        close: "",
        numbered: false,
        trigger: None,
        named: None,
    };

    /// Returns the text behind which free text becomes a call; `None` where a call is the whole answer.
    #[must_use]
    pub const fn trigger(&self) -> Option<&'static str> {
        self.trigger
    }

    /// Returns the text from the beginning of the calls to the first name.
    #[must_use]
    pub fn opening(&self) -> String {
        [self.open, self.before].concat()
    }

    /// Returns `true` if calls stand together between marks of their own.
    #[must_use]
    pub const fn has_section(&self) -> bool {
        !self.open.is_empty()
    }

    /// Returns these calls, names with arguments as JSON, as this syntax has them.
    #[must_use]
    pub fn write(&self, calls: &[(&str, &str)]) -> String {
        let call = |(index, (name, arguments)): (usize, &(&str, &str))| {
            let number = if self.numbered { format!(":{index}") } else { String::new() };
            [self.before, name, &number, self.between, arguments, self.after].concat()
        };
        let calls: Vec<String> = calls.iter().enumerate().map(call).collect();
        [self.open, &calls.join(self.separator.unwrap_or_default()), self.close].concat()
    }
}

/// Syntax of calls whose arguments are written one by one, each with its name. Line breaks may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamedArguments {
    /// Text before the calls.
    pub open: &'static str,
    /// Text before the name of a tool.
    pub before: &'static str,
    /// Text between the name and the arguments.
    pub between: &'static str,
    /// Text before the name of an argument, behind the name, before the value, and behind the value.
    pub argument: [&'static str; 4],
    /// Text between two arguments.
    pub comma: &'static str,
    /// Text behind the arguments.
    pub after: &'static str,
    /// Text between two calls; `None`: each has a mark of its own.
    pub separator: Option<&'static str>,
    /// Text behind the calls.
    pub close: &'static str,
    /// `true` if texts are written without quotation marks.
    pub raw: bool,
}

/// Part of an answer that is constrained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrammarMode {
    /// The whole answer consists of calls.
    Whole,
    /// The text from the end of the trigger to the end of the calls.
    BehindTrigger,
    /// The whole answer is either calls or a text that does not begin like one; for syntaxes without a trigger.
    WholeOrText,
    /// The whole answer is either calls or an answer that a schema accepts.
    WholeOrAnswer,
}

/// The grammar, in llguidance's variant of Lark's notation, of calls of `tools`: of one, or of one or `many`. `answer`: the
/// schema of an answer that may come instead. `token`: the id of a text that is a control token of the model.
#[must_use]
pub fn tool_grammar(
    syntax: &CallSyntax,
    tools: &[(String, Value)],
    many: bool,
    mode: GrammarMode,
    answer: Option<&Value>,
    token: &dyn Fn(&str) -> Option<i32>,
) -> String {
    let whole = [syntax.open, syntax.before].concat();
    let (open, before) = match (mode, syntax.trigger) {
        (GrammarMode::BehindTrigger, Some(trigger)) => {
            let rest = whole.strip_prefix(trigger).unwrap_or(&whole);
            // The first call's beginning is part of what opens them; it may lie before or behind the trigger's end.
            (literal(rest, token), literal(syntax.before, token))
        }
        _ => (literal(&whole, token), literal(syntax.before, token)),
    };
    let (between, after) = (literal(syntax.between, token), literal(syntax.after, token));
    let number = if syntax.numbered { "/:[0-9]{1,3}/" } else { "" };
    let mut rules = String::new();
    let mut alternatives = Vec::new();
    for (index, (name, schema)) in tools.iter().enumerate() {
        let name = literal(&escaped(name), token);
        rules.push_str(&json_rules(&format!("args_{index}"), schema));
        rules.push_str(&format!("call_{index}: {name} {number} {between} args_{index} {after}\n"));
        alternatives.push(format!("call_{index}"));
    }
    let calls = match syntax.separator.filter(|_| many) {
        Some(separator) => {
            let separator = literal(separator, token);
            format!("{open} call ({separator} {before} call)* {}", literal(syntax.close, token))
        }
        None => format!("{open} call {}", literal(syntax.close, token)),
    };
    let start = match mode {
        GrammarMode::WholeOrText => "calls | text",
        GrammarMode::WholeOrAnswer => "calls | answer",
        GrammarMode::Whole if syntax.preamble.is_some() => "preamble? calls",
        _ => "calls",
    };
    if let (GrammarMode::WholeOrAnswer, Some(schema)) = (mode, answer) {
        rules.push_str(&json_rules("answer", schema));
    }
    if mode == GrammarMode::WholeOrText {
        rules.push_str("text: /([^{](.|\\n)*)?/\n");
    }
    if let (GrammarMode::Whole, Some((begin, end))) = (mode, syntax.preamble) {
        let (begin, end) = (literal(begin, token), literal(end, token));
        rules.push_str(&format!("preamble: {begin} /([^<]|<[^|])*/ {end}\n"));
    }
    format!("start: {start}\ncalls: {calls}\ncall: {}\n{rules}", alternatives.join(" | "))
}

/// Returns `true` for a grammar of [`tool_grammar`] in which all text outside of quotation marks is JSON, a mark or a name.
#[must_use]
pub fn is_calls_of_json(grammar: &str) -> bool {
    let rest =
        grammar.strip_prefix("start: calls").map(|rest| rest.strip_prefix(" | answer").unwrap_or(rest));
    rest.is_some_and(|rest| rest.starts_with("\ncalls: "))
}

/// Returns the rule for a JSON value, and those that it needs.
pub(super) fn json_rules(name: &str, schema: &Value) -> String {
    exact::rules(name, schema).unwrap_or_else(|| format!("{name}: %json {schema}\n"))
}

/// Returns a name in its form inside JSON's quotes. Names have no characters that need it, but no other code guarantees that
/// here.
fn escaped(name: &str) -> String {
    let quoted = Value::from(name).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A text as terms of the grammar; control tokens in it are tokens.
pub(super) fn literal(text: &str, token: &dyn Fn(&str) -> Option<i32>) -> String {
    const MARKS: [(char, char); 2] = [('<', '>'), ('[', ']')];
    let mut terms = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let close = MARKS.iter().find(|(open, _)| *open == first).map(|(_, close)| *close);
        let end = close.and_then(|close| rest.find(close)).map(|at| at + 1);
        match end.and_then(|end| Some((end, token(&rest[..end])?))) {
            Some((end, id)) => {
                if !plain.is_empty() {
                    terms.push(Value::from(std::mem::take(&mut plain)).to_string());
                }
                terms.push(format!("<[{id}]>"));
                rest = &rest[end..];
            }
            None => {
                plain.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    if !plain.is_empty() {
        terms.push(Value::from(plain).to_string());
    }
    terms.join(" ")
}

/// Finds the end of a JSON value whose characters come one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonEnd {
    /// Takes a character of an object or array; whether it ends there.
    pub(super) fn push(&mut self, character: char) -> bool {
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match character {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Returns `true` if the text so far ends inside a string.
    pub(super) const fn in_string(&self) -> bool {
        self.in_string
    }
}

#[derive(Clone, Debug)]
enum Stage {
    /// Free text, in which a call may begin.
    Text,
    /// Text in which none can.
    Plain,
    /// Behind the beginning of a call: the name is being written.
    Name,
    /// The arguments are.
    Arguments(JsonEnd),
    /// Behind the arguments: the call's end, perhaps another's beginning, perhaps the end of all.
    After,
}

/// Parser of constrained calls: a name is passed on once it is complete, arguments as they arrive.
#[derive(Clone, Debug)]
pub(super) struct ConstrainedCalls {
    syntax: CallSyntax,
    names: Vec<String>,
    /// `true` if the answer is calls and nothing else.
    required: bool,
    stage: Stage,
    buffer: String,
}

impl ConstrainedCalls {
    pub(super) fn new(syntax: CallSyntax, tools: &[Tool]) -> Self {
        let names = tools.iter().map(|tool| tool.name.clone()).collect();
        Self { syntax, names, required: false, stage: Stage::Text, buffer: String::new() }
    }

    /// Declares that the answer is calls and nothing else, so that no part of one is text.
    pub(super) fn require(&mut self) {
        self.required = true;
    }

    pub(super) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        self.buffer.push_str(text);
        while self.step(parts) {}
    }

    /// Goes as far as the buffer leads; whether it may lead further.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        let opening = self.syntax.opening();
        match &mut self.stage {
            Stage::Text => {
                // A syntax without a trigger is the whole answer or no call.
                let begins = self.buffer.starts_with(&opening) || opening.starts_with(&*self.buffer);
                if self.syntax.trigger.is_none() && !begins {
                    self.stage = Stage::Plain;
                    return true;
                }
                if let Some(at) = self.buffer.find(&opening) {
                    Part::content(self.buffer[..at].trim_end().to_owned(), parts);
                    self.buffer.drain(..at + opening.len());
                    self.stage = Stage::Name;
                    return true;
                }
                let held = self.buffer.len() - held_prefix(&self.buffer, &[&opening]);
                let certain = self.buffer[..held].trim_end().len();
                Part::content(self.buffer.drain(..certain).collect(), parts);
                false
            }
            Stage::Plain => {
                Part::content(std::mem::take(&mut self.buffer), parts);
                false
            }
            Stage::Name => {
                let Some(at) = self.buffer.find(self.syntax.between) else { return false };
                let mut name = &self.buffer[..at];
                if self.syntax.numbered
                    && let Some((bare, _)) = name.rsplit_once(':')
                {
                    name = bare;
                }
                if self.names.iter().any(|known| known == name) {
                    parts.push(Part::Call(name.to_owned()));
                    self.buffer.drain(..at + self.syntax.between.len());
                    self.stage = Stage::Arguments(JsonEnd::default());
                } else {
                    // Text that only looks like the beginning of a call: the grammar had not taken hold yet.
                    Part::content(format!("{opening}{}", &self.buffer[..at]), parts);
                    self.buffer.drain(..at);
                    self.stage = Stage::Text;
                }
                true
            }
            Stage::Arguments(end) => {
                let found = self.buffer.char_indices().find(|&(_, c)| end.push(c));
                let length = found.map_or(self.buffer.len(), |(at, c)| at + c.len_utf8());
                Part::arguments(&self.buffer[..length], parts);
                self.buffer.drain(..length);
                if found.is_some() {
                    self.stage = Stage::After;
                }
                found.is_some()
            }
            Stage::After => {
                let next = self
                    .syntax
                    .separator
                    .map(|separator| [self.syntax.after, separator, self.syntax.before].concat());
                let last = [self.syntax.after, self.syntax.close].concat();
                if let Some(next) = &next {
                    if let Some(rest) = self.buffer.strip_prefix(next.as_str()) {
                        self.buffer = rest.to_owned();
                        self.stage = Stage::Name;
                        return true;
                    }
                    if next.starts_with(&*self.buffer) {
                        return false;
                    }
                }
                if let Some(rest) = self.buffer.strip_prefix(last.as_str()) {
                    self.buffer = rest.trim_start().to_owned();
                    self.stage = Stage::Text;
                    return !self.buffer.is_empty();
                }
                if last.starts_with(&*self.buffer) {
                    return false;
                }
                self.stage = Stage::Text;
                true
            }
        }
    }

    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        let rest = std::mem::take(&mut self.buffer);
        match self.stage {
            // A call that broke off before its arguments is neither a call nor text for a reader.
            Stage::Text | Stage::Name if self.required => {}
            Stage::Text if self.syntax.trigger.is_some_and(|mark| rest.trim_start().starts_with(mark)) => {}
            Stage::Name if self.begins_call(&rest) => {}
            Stage::Text | Stage::Plain => Part::content(rest, parts),
            Stage::Name => Part::content(self.syntax.opening() + &rest, parts),
            // Text behind a call's arguments is part of the syntax, and broke off.
            Stage::Arguments(_) | Stage::After => {}
        }
    }

    /// Returns `true` if a call of a known tool may continue like this behind its opening.
    fn begins_call(&self, rest: &str) -> bool {
        self.names.iter().any(|name| {
            let Some(more) = rest.strip_prefix(name.as_str()) else { return name.starts_with(rest) };
            let more = match more.strip_prefix(':').filter(|_| self.syntax.numbered) {
                Some(number) => number.trim_start_matches(|c: char| c.is_ascii_digit()),
                None => more,
            };
            self.syntax.between.starts_with(more)
        })
    }
}
