//! The maximum length of an answer.

use jan_protocol::report::Rejection;

/// The maximum number of tokens of an answer.
///
/// # Errors
/// The context has no room for one token, or for `max_tokens` unless that may be cut (`clamp`).
pub fn answer_length(
    limit: u32,
    prompt_tokens: u32,
    max_tokens: Option<u32>,
    clamp: bool,
) -> Result<u32, Rejection> {
    let room = limit.saturating_sub(prompt_tokens);
    let requested = max_tokens.unwrap_or(1);
    let needed = if clamp { requested.min(1) } else { requested };
    if prompt_tokens > limit || needed > room {
        return Err(Rejection::ContextLengthExceeded { limit, prompt_tokens, requested });
    }
    Ok(max_tokens.map_or(room, |max_tokens| max_tokens.min(room)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_answer_never_leaves_the_context(
            limit in 1u32..10_000,
            prompt in 0u32..20_000,
            max in prop::option::of(0u32..=u32::MAX),
            clamp: bool,
        ) {
            match answer_length(limit, prompt, max, clamp) {
                Ok(tokens) => {
                    prop_assert!(prompt + tokens <= limit);
                    prop_assert!(max.is_none_or(|max| tokens == max || (clamp && tokens < max && prompt + tokens == limit)));
                    prop_assert!(max.is_some() || prompt + tokens == limit);
                    prop_assert!(max == Some(0) || tokens > 0, "an answer has a token at least");
                }
                Err(Rejection::ContextLengthExceeded { .. }) => {
                    let needed = if clamp { max.unwrap_or(1).min(1) } else { max.unwrap_or(1) };
                    prop_assert!(u64::from(prompt) + u64::from(needed) > u64::from(limit));
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
