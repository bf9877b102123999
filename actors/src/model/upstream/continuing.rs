//! Answers that go on elsewhere after their upstream failed.
//!
//! Pure. The text so far becomes the beginning of what another upstream continues: of a text behind the prompt, of a chat as the
//! last message (`continue_final_message`). Nothing that was passed on comes again, and nothing between is left out; the text may
//! be divided into other tokens at the cut, draws are new, and penalties for what the answer has said begin anew. So only plain
//! text goes on: no calls, no reasoning, no answer under a constraint, whose grammar no upstream starts in its middle.
//!
//! Chat templates trim messages, or do not. So a message is sent without the white space at its end, and what the other upstream
//! says of it again is left out.

use std::sync::Arc;

use jan_protocol::output_formats::Part;
use jan_protocol::types::{ChatPrompt, GenerationRequest, Prompt, PromptEnding, TokenUsage};
use serde_json::{Value, json};

use super::chunks::Piece;
use crate::config::UpstreamKind;

/// Maximum number of times that an answer goes on.
pub const MOST: u32 = 3;

/// The part of an answer that was passed on, over all tries.
#[derive(Debug, Default)]
pub struct SoFar {
    /// `true` once it has begun.
    pub is_begun: bool,
    /// Tokens of the prompt and of those the cached ones, as they were passed on.
    pub prompt: (u32, u32),
    /// Its text.
    text: String,
    /// `true` if it has parts that are no plain text.
    has_others: bool,
    /// Tokens of it.
    tokens: u32,
    /// Those of earlier tries.
    earlier: u32,
    /// The number of times that it went on.
    pub resumed: u32,
    /// White space at the end of the text that the present try may say again.
    repeated: String,
}

impl SoFar {
    /// Notes a piece that is passed on. Leaves out what was passed on before.
    pub fn note(&mut self, piece: &mut Piece) {
        self.leave_out(&mut piece.parts);
        self.tokens = self.tokens.saturating_add(piece.tokens);
        for part in &piece.parts {
            match part {
                Part::Content(text) => self.text.push_str(text),
                _ => self.has_others = true,
            }
        }
    }

    fn leave_out(&mut self, parts: &mut Vec<Part>) {
        for part in parts.iter_mut() {
            let Part::Content(text) = part else { break };
            if self.repeated.is_empty() {
                break;
            }
            let same = text.chars().zip(self.repeated.chars()).take_while(|(a, b)| a == b);
            let same: usize = same.map(|(c, _)| c.len_utf8()).sum();
            let is_over = same < text.len();
            text.drain(..same);
            self.repeated.drain(..same);
            if is_over {
                self.repeated.clear();
            }
        }
        parts.retain(|part| !matches!(part, Part::Content(text) if text.is_empty()));
    }

    /// Notes that another try continues its answer to a request.
    pub fn resume(&mut self, request: &GenerationRequest) {
        self.resumed += 1;
        self.earlier = self.tokens;
        self.repeated = match &*request.prompt {
            Prompt::Chat(_) => self.text[self.text.trim_end().len()..].to_owned(),
            _ => String::new(),
        };
    }

    /// Returns `true` if another upstream can continue it.
    #[must_use]
    pub fn can_go_on(&self, request: &GenerationRequest) -> bool {
        let has_room = request.max_tokens.is_none_or(|most| self.tokens < most);
        !self.has_others && has_room && self.resumed < MOST && is_plain(request)
    }

    /// Returns the characters of the text.
    #[must_use]
    pub fn characters(&self) -> u64 {
        self.text.chars().count() as u64
    }

    /// Returns the request for the rest of the answer.
    #[must_use]
    pub fn rest(&self, request: &GenerationRequest) -> GenerationRequest {
        let mut rest = request.clone();
        rest.max_tokens = request.max_tokens.map(|most| most.saturating_sub(self.tokens).max(1));
        rest.sampling.min_tokens = request.sampling.min_tokens.saturating_sub(self.tokens);
        rest.prompt = match &*request.prompt {
            Prompt::Chat(chat) => Arc::new(Prompt::Chat(with_text(chat, self.text.trim_end()))),
            Prompt::Text(text) => Arc::new(Prompt::Text(format!("{text}{}", self.text))),
            Prompt::Tokens(_) | Prompt::Infill { .. } => Arc::clone(&request.prompt),
        };
        rest
    }

    /// Returns the usage of the whole answer, from that of the last try: the prompt counts once, and what was said by earlier
    /// tries is no prompt of the caller's.
    #[must_use]
    pub fn usage(&self, last: TokenUsage) -> TokenUsage {
        if self.resumed == 0 {
            return last;
        }
        let (prompt_tokens, cached_tokens) = self.prompt;
        TokenUsage {
            prompt_tokens,
            cached_tokens,
            completion_tokens: self.earlier.saturating_add(last.completion_tokens),
            reasoning_tokens: last.reasoning_tokens,
        }
    }
}

fn is_plain(request: &GenerationRequest) -> bool {
    let has_text = matches!(&*request.prompt, Prompt::Chat(_) | Prompt::Text(_));
    has_text && request.constraint.is_none() && request.tools.is_none()
}

/// Returns the kinds that can continue an answer to a request.
#[must_use]
pub fn kinds(request: &GenerationRequest, all: &[UpstreamKind]) -> Vec<UpstreamKind> {
    if !is_plain(request) {
        return Vec::new();
    }
    let begun = SoFar { text: "a".to_owned(), ..SoFar::default() }.rest(request);
    all.iter().copied().filter(|kind| kind.lacking(&begun).is_none()).collect()
}

fn with_text(chat: &ChatPrompt, text: &str) -> ChatPrompt {
    let mut chat = chat.clone();
    if text.is_empty() {
        return chat;
    }
    let continued = chat.messages.last_mut().filter(|_| chat.ending == PromptEnding::LastMessage);
    match continued.and_then(|message| message.get_mut("content")) {
        Some(Value::String(content)) => content.push_str(text),
        _ => chat.messages.push(json!({"role": "assistant", "content": text})),
    }
    chat.ending = PromptEnding::LastMessage;
    chat
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::upstream::KINDS;
    use crate::model::upstream::test_requests::{chat, text};

    fn piece(text: &str, tokens: u32) -> Piece {
        Piece { parts: vec![Part::Content(text.to_owned())], tokens, logprobs: Vec::new() }
    }

    #[test]
    fn the_rest_continues_the_text() {
        let mut so_far = SoFar::default();
        so_far.note(&mut piece("one ", 1));
        so_far.note(&mut piece("two ", 2));
        let rest = so_far.rest(&text("Say: "));
        assert_eq!((&*rest.prompt, rest.max_tokens), (&Prompt::Text("Say: one two ".to_owned()), Some(13)));
        let user = json!({"role": "user", "content": "Hi"});
        let rest = so_far.rest(&chat(vec![user.clone()].into()));
        let Prompt::Chat(continued) = &*rest.prompt else { panic!() };
        assert_eq!(continued.messages, [user.clone(), json!({"role": "assistant", "content": "one two"})]);
        assert_eq!(continued.ending, PromptEnding::LastMessage);
        let prefilled = ChatPrompt { ending: PromptEnding::LastMessage, ..continued.clone() };
        let Prompt::Chat(continued) = &*so_far.rest(&chat(prefilled)).prompt else { panic!() };
        assert_eq!(continued.messages[1]["content"], "one twoone two");
    }

    #[test]
    fn only_plain_text_goes_on_and_not_for_ever() {
        let mut so_far = SoFar::default();
        so_far.note(&mut piece("a", 1));
        assert!(so_far.can_go_on(&text("x")));
        let tokens = GenerationRequest { prompt: Prompt::Tokens(vec![1]).into(), ..text("x") };
        assert!(!so_far.can_go_on(&tokens));
        assert!(
            !so_far.can_go_on(&GenerationRequest { max_tokens: Some(1), ..text("x") }),
            "it is at its end"
        );
        for _ in 0..MOST {
            so_far.resume(&text("x"));
        }
        assert!(!so_far.can_go_on(&text("x")));
        let mut thinking = SoFar::default();
        thinking.note(&mut Piece { parts: vec![Part::Reasoning("hm".to_owned())], ..Piece::default() });
        assert!(!thinking.can_go_on(&text("x")));
        let messages = vec![json!({"role": "user", "content": "Hi"})];
        let all_but_openai =
            [UpstreamKind::Vllm, UpstreamKind::Sglang, UpstreamKind::LlamaServer, UpstreamKind::Jan];
        assert_eq!(kinds(&chat(messages.into()), &KINDS), all_but_openai);
        assert_eq!(kinds(&text("x"), &KINDS), KINDS);
        assert_eq!(kinds(&tokens, &KINDS), []);
    }

    proptest! {
        /// However an answer is divided among tries: their texts together are the whole, the tokens are within the limit, and
        /// usage is their sum with one prompt.
        #[test]
        fn nothing_is_lost_or_doubled(tries in prop::collection::vec(prop::collection::vec(("[a-zä ]{0,4}", 0u32..3), 0..6), 1..4)) {
            let request = GenerationRequest { max_tokens: Some(1000), ..text("Say: ") };
            let mut so_far = SoFar { prompt: (5, 2), ..SoFar::default() };
            let (mut whole, mut all, mut last) = (String::new(), 0, 0);
            for (number, pieces) in tries.iter().enumerate() {
                if number > 0 {
                    so_far.resume(&request);
                }
                let rest = so_far.rest(&request);
                prop_assert_eq!(&*rest.prompt, &Prompt::Text(format!("Say: {whole}")));
                prop_assert_eq!(rest.max_tokens, Some(1000 - all));
                last = 0;
                for (said, tokens) in pieces {
                    so_far.note(&mut piece(said, *tokens));
                    whole.push_str(said);
                    all += tokens;
                    last += tokens;
                }
            }
            let reported = TokenUsage { prompt_tokens: 99, completion_tokens: last, ..TokenUsage::default() };
            let usage = so_far.usage(reported);
            prop_assert_eq!(usage.completion_tokens, all);
            prop_assert_eq!(usage.prompt_tokens, if tries.len() > 1 { 5 } else { 99 });
        }

        /// A chat's answer is the same wherever its upstream failed, whether templates trim or not: the other one goes on behind the
        /// trimmed text, in pieces of any size.
        #[test]
        fn white_space_at_a_cut_is_neither_lost_nor_doubled(whole in "[ab \n]{0,24}", cut: prop::sample::Index, sizes in prop::collection::vec(1usize..4, 30)) {
            let request = chat(vec![json!({"role": "user", "content": "Hi"})].into());
            let at = cut.index(whole.len() + 1);
            let mut so_far = SoFar::default();
            so_far.note(&mut piece(&whole[..at], 1));
            so_far.resume(&request);
            let Prompt::Chat(rest) = &*so_far.rest(&request).prompt else { panic!() };
            let sent = rest.messages.get(1).map_or("", |message| message["content"].as_str().unwrap());
            let (mut left, mut got) = (&whole[sent.len()..], whole[..at].to_owned());
            for size in sizes {
                let (said, behind) = left.split_at(size.min(left.len()));
                left = behind;
                let mut piece = piece(said, 1);
                so_far.note(&mut piece);
                for part in piece.parts {
                    let Part::Content(text) = part else { panic!() };
                    got.push_str(&text);
                }
            }
            prop_assert_eq!(got, whole);
        }
    }
}
