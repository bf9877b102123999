//! Conversion of constraints to the notations that llguidance compiles.

use jan_protocol::schema::exact;
use jan_protocol::types::Constraint;

use super::source::Source;
use super::{gbnf, with_layout};
use crate::vetting::Refusal;

impl Source {
    /// Converts a constraint.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn of(constraint: &Constraint) -> Result<Self, Refusal> {
        Ok(match constraint {
            Constraint::JsonSchema(schema) => match with_exact_numbers(schema) {
                Some(rules) => Self::Lark(rules),
                None => Self::JsonSchema(schema.clone()),
            },
            Constraint::Regex(regex) => Self::Regex(regex.clone()),
            Constraint::Lark(grammar) => Self::Lark(grammar.clone()),
            Constraint::Choice(texts) => {
                let escaped: Vec<String> = texts.iter().map(|text| regex_syntax::escape(text)).collect();
                Self::Regex(escaped.join("|"))
            }
            Constraint::Gbnf(grammar) => gbnf::source(grammar).map_err(|error| {
                Refusal::Malformed(format!("not a grammar in llama.cpp's notation: {error}"))
            })?,
        })
    }
}

/// The grammar of a schema with numbers that the schema compiler would round.
fn with_exact_numbers(schema: &str) -> Option<String> {
    if !schema.contains(exact::MARK) {
        return None;
    }
    exact::rules("start", &with_layout(&serde_json::from_str(schema).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_texts_and_no_expressions() {
        let choice = Constraint::Choice(["a.b", "c|d"].map(str::to_owned).to_vec());
        assert_eq!(Source::of(&choice), Ok(Source::Regex(r"a\.b|c\|d".to_owned())));
    }

    #[test]
    fn a_grammar_of_llama_cpp_is_converted_or_refused() {
        let grammar = |text: &str| Source::of(&Constraint::Gbnf(text.to_owned()));
        assert_eq!(grammar("root ::= \"a\""), Ok(Source::Regex("a".to_owned())));
        let Err(Refusal::Malformed(message)) = grammar("root ::= nothing") else { panic!() };
        assert_eq!(message, "not a grammar in llama.cpp's notation: the rule 'nothing' is not defined");
    }
}
