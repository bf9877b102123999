//! Conversion of grammars in llama.cpp's notation (GBNF) to those of llguidance.
//!
//! Source: `grammars/README.md` of llama.cpp. A grammar without recursion becomes a regular expression. Any other
//! becomes a grammar in Lark's notation whose terminals are single characters: Lark's lexer takes the longest terminal
//! that matches, which GBNF does not, and terminals of one character all have the same length.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::source::Source;

/// Maximum number of rules.
const MAX_RULES: usize = 1000;
/// Maximum nesting of parentheses.
const MAX_DEPTH: usize = 50;
/// Maximum number of suffixes in a whole grammar that follow another suffix, as in `"a"??`: each nests like a
/// parenthesis, and grammars are walked recursively.
const MAX_STACKED_SUFFIXES: usize = 50;
/// Maximum count of a repetition, as in llama.cpp.
const MAX_REPEATS: u32 = 2000;
/// Maximum length of the expression that a grammar is converted to, in bytes; a longer one stays a grammar.
const MAX_EXPRESSION: usize = 16 * 1024;

/// Converts a grammar; its rule `root` is the answer.
///
/// # Errors
/// A text that names the defect, and its line.
pub fn source(text: &str) -> Result<Source, String> {
    let grammar = Grammar::parse(text)?;
    Ok(match grammar.expression() {
        Some(expression) => Source::Regex(expression),
        None => Source::Lark(grammar.lark()),
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    /// One character, in the syntax of expressions.
    Class(String),
    Rule(usize),
    Sequence(Vec<Node>),
    OneOf(Vec<Node>),
    /// A node with its minimum and maximum count.
    Repeat(Box<Node>, u32, Option<u32>),
}

#[derive(Debug)]
struct Grammar {
    root: usize,
    rules: Vec<Node>,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// The names seen so far, with the numbers of their rules.
    names: HashMap<&'a str, usize>,
    rules: Vec<Option<Node>>,
    /// The number of suffixes so far that follow another suffix.
    stacked: usize,
}

impl Grammar {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0, names: HashMap::new(), rules: Vec::new(), stacked: 0 };
        parser.space();
        while parser.at < text.len() {
            let name = parser.name().ok_or_else(|| parser.wrong("expected the name of a rule"))?;
            parser.space();
            if !parser.take("::=") {
                return Err(parser.wrong(&format!("expected '::=' after '{name}'")));
            }
            let number = parser.number(name)?;
            let rule = parser.alternatives(0)?;
            if parser.rules[number].replace(rule).is_some() {
                return Err(parser.wrong(&format!("the rule '{name}' is defined twice")));
            }
        }
        let root = *parser.names.get("root").ok_or("it has no rule 'root'")?;
        let mut names: Vec<&str> = vec![""; parser.rules.len()];
        parser.names.iter().for_each(|(name, number)| names[*number] = name);
        let rules = parser.rules.into_iter().zip(names);
        let rules = rules.map(|(rule, name)| rule.ok_or_else(|| format!("the rule '{name}' is not defined")));
        Ok(Self { root, rules: rules.collect::<Result<_, _>>()? })
    }

    /// Returns the grammar as one expression; `None` if a rule is recursive or the expression becomes too long.
    fn expression(&self) -> Option<String> {
        let mut done = vec![None; self.rules.len()];
        self.settle(self.root, &mut done, &mut vec![false; self.rules.len()])?;
        done[self.root].take()
    }

    /// Writes the rule's expression, after those of the rules that it refers to. A chain of rules can be long, so
    /// pending rules are kept in a list rather than on the stack.
    fn settle(&self, rule: usize, done: &mut [Option<String>], open: &mut [bool]) -> Option<()> {
        let mut path = vec![rule];
        while let Some(&rule) = path.last() {
            if done[rule].is_some() {
                path.pop();
                continue;
            }
            let missing: Vec<usize> =
                self.rules[rule].named().into_iter().filter(|&rule| done[rule].is_none()).collect();
            if missing.is_empty() {
                let mut expression = String::new();
                self.rules[rule].expression(done, &mut expression);
                done[rule] = Some(expression).filter(|expression| expression.len() <= MAX_EXPRESSION);
                done[rule].as_ref()?;
                path.pop();
            } else if std::mem::replace(&mut open[rule], true) {
                // The rule was visited before and its references are not done: one of them leads back to it.
                return None;
            } else {
                path.extend(missing);
            }
        }
        Some(())
    }

    fn lark(&self) -> String {
        let mut lark = format!("start: r{}\n", self.root);
        for (number, rule) in self.rules.iter().enumerate() {
            let _ = write!(lark, "r{number}: ");
            rule.lark(&mut lark);
            lark.push('\n');
        }
        lark
    }
}

impl Node {
    /// Returns the rules that the node refers to.
    fn named(&self) -> Vec<usize> {
        let (mut named, mut left) = (Vec::new(), vec![self]);
        while let Some(node) = left.pop() {
            match node {
                Self::Rule(rule) => named.push(*rule),
                Self::Sequence(nodes) | Self::OneOf(nodes) => left.extend(nodes),
                Self::Repeat(node, ..) => left.push(node),
                Self::Text(_) | Self::Class(_) => {}
            }
        }
        named.sort_unstable();
        named.dedup();
        named
    }

    fn expression(&self, rules: &[Option<String>], out: &mut String) {
        // The expression of a rule can be long, and the rule can be referred to often.
        if out.len() > MAX_EXPRESSION {
            return;
        }
        match self {
            Self::Text(text) => out.push_str(&regex_syntax::escape(text)),
            Self::Class(class) => out.push_str(class),
            Self::Rule(rule) => {
                let _ = write!(out, "(?:{})", rules[*rule].as_deref().unwrap_or_default());
            }
            Self::Sequence(nodes) => nodes.iter().for_each(|node| node.expression(rules, out)),
            Self::OneOf(nodes) => {
                out.push_str("(?:");
                for (index, node) in nodes.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "|" });
                    node.expression(rules, out);
                }
                out.push(')');
            }
            Self::Repeat(node, least, most) => {
                out.push_str("(?:");
                node.expression(rules, out);
                out.push(')');
                repeats(*least, *most, out);
            }
        }
    }

    fn lark(&self, out: &mut String) {
        match self {
            Self::Text(text) if text.is_empty() => out.push_str("\"\""),
            Self::Text(text) => {
                for (index, character) in text.chars().enumerate() {
                    let word = Value::from(character.to_string());
                    let _ = write!(out, "{}{word}", if index == 0 { "" } else { " " });
                }
            }
            Self::Class(class) => {
                let _ = write!(out, "/{class}/");
            }
            Self::Rule(rule) => {
                let _ = write!(out, "r{rule}");
            }
            Self::Sequence(nodes) if nodes.is_empty() => out.push_str("\"\""),
            Self::Sequence(nodes) => joined(nodes, " ", out),
            Self::OneOf(nodes) => {
                out.push('(');
                joined(nodes, " | ", out);
                out.push(')');
            }
            Self::Repeat(node, least, most) => {
                out.push('(');
                node.lark(out);
                out.push(')');
                repeats(*least, *most, out);
            }
        }
    }
}

fn joined(nodes: &[Node], between: &str, out: &mut String) {
    for (index, node) in nodes.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { between });
        node.lark(out);
    }
}

fn repeats(least: u32, most: Option<u32>, out: &mut String) {
    match (least, most) {
        (0, Some(1)) => out.push('?'),
        (0, None) => out.push('*'),
        (1, None) => out.push('+'),
        (least, None) => {
            let _ = write!(out, "{{{least},}}");
        }
        (least, Some(most)) => {
            let _ = write!(out, "{{{least},{most}}}");
        }
    }
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, what: &str) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        let near: String = self.rest().chars().take(20).collect();
        format!("line {line}: {what}, got {near:?}")
    }

    /// Skips whitespace and comments.
    fn space(&mut self) {
        loop {
            self.at = self.text.len() - self.rest().trim_start().len();
            if !self.rest().starts_with('#') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn take(&mut self, wanted: &str) -> bool {
        let is_next = self.rest().starts_with(wanted);
        self.at += if is_next { wanted.len() } else { 0 };
        is_next
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(rest.len());
        self.at += end;
        (end > 0).then(|| &rest[..end])
    }

    fn number(&mut self, name: &'a str) -> Result<usize, String> {
        let next = self.rules.len();
        let number = *self.names.entry(name).or_insert(next);
        if number == next {
            if next == MAX_RULES {
                return Err(format!("it has more than {MAX_RULES} rules"));
            }
            self.rules.push(None);
        }
        Ok(number)
    }

    /// Returns whether a rule begins here, which ends the rule before it.
    fn at_rule(&self) -> bool {
        let mut ahead =
            Parser { text: self.text, at: self.at, names: HashMap::new(), rules: Vec::new(), stacked: 0 };
        if ahead.name().is_none() {
            return false;
        }
        ahead.space();
        ahead.rest().starts_with("::=")
    }

    fn alternatives(&mut self, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(&format!("more than {MAX_DEPTH} parentheses in each other")));
        }
        let mut all = vec![self.sequence(depth)?];
        while self.take("|") {
            all.push(self.sequence(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::OneOf(all) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut nodes = Vec::new();
        loop {
            self.space();
            let node = match self.rest().chars().next() {
                None | Some('|' | ')') => break,
                Some('"') => self.text()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    Node::Class("[\\x{0}-\\x{10FFFF}]".to_owned())
                }
                Some('(') => {
                    self.at += 1;
                    let inner = self.alternatives(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.wrong("expected ')'"));
                    }
                    inner
                }
                Some('<' | '!') => return Err(self.wrong("tokens cannot be named here; expected their text")),
                Some(_) if self.at_rule() => break,
                Some(_) => {
                    let name = self.name().ok_or_else(|| self.wrong("expected a part of a rule"))?;
                    Node::Rule(self.number(name)?)
                }
            };
            nodes.push(self.repeated(node)?);
        }
        if depth == 0 && self.rest().starts_with(')') {
            return Err(self.wrong("there is no '(' to this"));
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Sequence(nodes) })
    }

    /// Parses the repetition suffixes after a part of a rule.
    fn repeated(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            self.space();
            let (least, most) = match self.rest().chars().next() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    let end = self.rest().find('}').ok_or_else(|| self.wrong("expected '}'"))?;
                    let inner = &self.rest()[1..end];
                    let number = |text: &str| {
                        let number = text.trim().parse::<u32>().ok().filter(|&number| number <= MAX_REPEATS);
                        number.ok_or_else(|| {
                            self.wrong(&format!(
                                "expected '{{m}}', '{{m,}}' or '{{m,n}}' up to {MAX_REPEATS}"
                            ))
                        })
                    };
                    let (least, most) = match inner.split_once(',') {
                        None => (number(inner)?, Some(number(inner)?)),
                        Some((least, most)) => {
                            let least = if least.trim().is_empty() { 0 } else { number(least)? };
                            (least, if most.trim().is_empty() { None } else { Some(number(most)?) })
                        }
                    };
                    if most.is_some_and(|most| most < least) {
                        return Err(self.wrong("the second number is less than the first"));
                    }
                    self.at += end;
                    (least, most)
                }
                _ => return Ok(node),
            };
            self.at += 1;
            if matches!(node, Node::Repeat(..)) {
                self.stacked += 1;
                if self.stacked > MAX_STACKED_SUFFIXES {
                    let message = format!(
                        "more than {MAX_STACKED_SUFFIXES} repetitions of repetitions; write one suffix each"
                    );
                    return Err(self.wrong(&message));
                }
            }
            node = Node::Repeat(Box::new(node), least, most);
        }
    }

    fn text(&mut self) -> Result<Node, String> {
        self.at += 1;
        let mut text = String::new();
        while !self.take("\"") {
            text.push(self.character("'\"'")?);
        }
        Ok(Node::Text(text))
    }

    fn class(&mut self) -> Result<Node, String> {
        self.at += 1;
        let mut class = String::from(if self.take("^") { "[^" } else { "[" });
        let empty = class.len();
        while !self.take("]") {
            let first = self.character("']'")?;
            let mut last = first;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                last = self.character("the end of a range")?;
            }
            if last < first {
                return Err(self.wrong("a range of characters that goes backwards"));
            }
            let _ = write!(class, "\\x{{{:X}}}-\\x{{{:X}}}", u32::from(first), u32::from(last));
        }
        if class.len() == empty {
            return Err(self.wrong("a class without characters"));
        }
        class.push(']');
        Ok(Node::Class(class))
    }

    /// Parses the next character of a text or a class, including escapes that begin with `\`.
    fn character(&mut self, end: &str) -> Result<char, String> {
        let next = |parser: &mut Self| {
            let character = parser.rest().chars().next();
            character.inspect(|character| parser.at += character.len_utf8())
        };
        let missing = |parser: &Self| parser.wrong(&format!("expected {end}"));
        let first = next(self).ok_or_else(|| missing(self))?;
        if first != '\\' {
            return Ok(first);
        }
        let digits = match next(self).ok_or_else(|| missing(self))? {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other if other.is_ascii_alphanumeric() => return Err(self.wrong("an unknown escape")),
            other => return Ok(other),
        };
        let hex = self.rest().get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let character =
            code.ok_or_else(|| self.wrong(&format!("expected {digits} digits of a character's number")))?;
        self.at += digits;
        Ok(character)
    }
}

#[cfg(test)]
#[path = "gbnf_tests.rs"]
mod tests;
