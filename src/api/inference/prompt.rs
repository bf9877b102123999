//! The `prompt` of text completions: a text, texts, tokens or lists of tokens.

use std::fmt;

use jan_actors::model::Prompt;
use jan_protocol::types::Token;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use utoipa::ToSchema;

/// Maximum number of prompts in one request.
pub const MAX_PROMPTS: usize = 128;

const EXPECTED: &str = "a string, an array of strings, an array of tokens or an array of token arrays";

/// A text, up to 128 texts, an array of tokens, or up to 128 of those.
#[derive(ToSchema)]
#[schema(as = Prompt)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what Prompts reads")]
pub enum PromptShape {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Lists of tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// One or several prompts, at least one and at most `MAX`.
#[derive(Debug, PartialEq)]
pub struct PromptList<const MAX: usize>(pub Vec<Prompt>);

/// The prompts of a completion.
pub type Prompts = PromptList<MAX_PROMPTS>;

impl<'de, const MAX: usize> Deserialize<'de> for PromptList<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptsVisitor)
    }
}

struct PromptsVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for PromptsVisitor<MAX> {
    type Value = PromptList<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_unit<E: Error>(self) -> Result<PromptList<MAX>, E> {
        // OpenAI's default: as at the beginning of a new document.
        self.visit_str("")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptList<MAX>, E> {
        Ok(PromptList(vec![Prompt::Text(text.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptList<MAX>, A::Error> {
        // The type of the first element determines that of the others.
        match seq.next_element::<First>()? {
            None => Err(A::Error::custom(format!("an empty array, expected {EXPECTED}"))),
            Some(First::Token(first)) => {
                let mut tokens = vec![first];
                while let Some(CheckedToken(token)) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(PromptList(vec![Prompt::Tokens(tokens)]))
            }
            Some(First::Text(first)) => rest(Prompt::Text(first), seq, Prompt::Text),
            Some(First::Tokens(first)) => {
                rest(Prompt::Tokens(first.0), seq, |list: TokenList| Prompt::Tokens(list.0))
            }
        }
    }
}

fn rest<'de, T, A, const MAX: usize>(
    first: Prompt,
    mut seq: A,
    wrap: fn(T) -> Prompt,
) -> Result<PromptList<MAX>, A::Error>
where
    T: Deserialize<'de>,
    A: SeqAccess<'de>,
{
    let mut prompts = vec![first];
    while let Some(prompt) = seq.next_element()? {
        if prompts.len() == MAX {
            return Err(A::Error::custom(format!("too many, expected at most {MAX}")));
        }
        prompts.push(wrap(prompt));
    }
    Ok(PromptList(prompts))
}

enum First {
    Text(String),
    Token(Token),
    Tokens(TokenList),
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FirstVisitor;
        impl<'de> Visitor<'de> for FirstVisitor {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token or an array of tokens")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<First, E> {
                Ok(First::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<First, E> {
                token(number).map(First::Token)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<First, E> {
                Err(negative(number))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<First, A::Error> {
                TokenListVisitor.visit_seq(seq).map(First::Tokens)
            }
        }
        deserializer.deserialize_any(FirstVisitor)
    }
}

struct TokenList(Vec<Token>);

impl<'de> Deserialize<'de> for TokenList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TokenListVisitor)
    }
}

struct TokenListVisitor;

impl<'de> Visitor<'de> for TokenListVisitor {
    type Value = TokenList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TokenList, A::Error> {
        let mut tokens = Vec::new();
        while let Some(CheckedToken(token)) = seq.next_element()? {
            tokens.push(token);
        }
        if tokens.is_empty() {
            return Err(A::Error::custom("an empty array, expected at least one token"));
        }
        Ok(TokenList(tokens))
    }
}

struct CheckedToken(Token);

impl<'de> Deserialize<'de> for CheckedToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TokenVisitor;
        impl Visitor<'_> for TokenVisitor {
            type Value = CheckedToken;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<CheckedToken, E> {
                token(number).map(CheckedToken)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<CheckedToken, E> {
                Err(negative(number))
            }
        }
        deserializer.deserialize_any(TokenVisitor)
    }
}

fn token<E: Error>(number: u64) -> Result<Token, E> {
    Token::try_from(number).map_err(|_| {
        E::custom(format!("the token {number} is out of range, expected at most {}", Token::MAX))
    })
}

fn negative<E: Error>(number: i64) -> E {
    E::custom(format!("the token {number} is out of range, expected at least 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Prompt>, String> {
        serde_json::from_str::<Prompts>(json).map(|prompts| prompts.0).map_err(|error| error.to_string())
    }

    fn text(text: &str) -> Prompt {
        Prompt::Text(text.to_owned())
    }

    #[test]
    fn all_four_forms_are_read() {
        assert_eq!(read(r#""a""#).unwrap(), [text("a")]);
        assert_eq!(read("null").unwrap(), [text("")]);
        assert_eq!(read(r#"["a", ""]"#).unwrap(), [text("a"), text("")]);
        assert_eq!(read("[1, 2]").unwrap(), [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(read("[[1], [2, 3]]").unwrap(), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    }

    #[test]
    fn mixtures_and_bad_tokens_are_refused() {
        for wrong in [
            "[]",
            "[[]]",
            "[[1], []]",
            "1",
            "{}",
            "true",
            r#"["a", 1]"#,
            r#"[1, "a"]"#,
            r#"[[1], "a"]"#,
            "[[1], 1]",
            "[null]",
            "[-1]",
            "[1.5]",
            "[[-1]]",
            "[2147483648]",
            "[1, 2147483648]",
            "[[[1]]]",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_number_of_prompts_is_bounded_and_that_of_tokens_is_not() {
        let list = |item: &str, count| format!("[{}]", vec![item; count].join(","));
        assert_eq!(read(&list(r#""a""#, MAX_PROMPTS)).unwrap().len(), MAX_PROMPTS);
        assert!(read(&list(r#""a""#, MAX_PROMPTS + 1)).unwrap_err().contains("at most 128"));
        assert!(read(&list("[1]", MAX_PROMPTS + 1)).is_err());
        assert_eq!(read(&list("1", 100_000)).unwrap(), [Prompt::Tokens(vec![1; 100_000])]);
    }
}
