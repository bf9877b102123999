//! The course of one answer: thinking, free text, and the parts inside a constraint.
//!
//! A constraint begins behind the thinking, or with each mark that opens a call. Thinking ends by itself, when its budget is used
//! up, or when the answer would end without the part that the constraint asks for; then its end is put into the answer. All of it
//! follows from the tokens alone, so a resumed answer that takes its old tokens again is in the same state.

use std::collections::VecDeque;
use std::sync::Arc;

use jan_protocol::output_formats::{CallMark, RepeatedCalls};
use jan_protocol::types::Token;

use super::constraint::{Guide, GuideError};
use super::text_ends::{ends_in_beginning, find, keep_last};

/// The form of an answer's thinking.
#[derive(Clone, Debug)]
pub struct Thinking {
    /// The tags that begin and end it.
    pub tags: (&'static str, &'static str),
    /// `true` if the prompt has begun it.
    pub open: bool,
    /// The token that begins it, where it is one.
    pub start: Option<Token>,
    /// The tokens that are put into the answer to end it.
    pub close: Arc<[Token]>,
    /// The maximum number of its tokens.
    pub budget: Option<u32>,
}

/// The constraints on an answer.
#[derive(Clone, Debug)]
pub enum Keep {
    /// No constraint.
    Free,
    /// A constraint on all of it that is not thinking.
    Whole {
        /// The guide at the answer's beginning.
        guide: Guide,
        /// The answers that are calls.
        calls: WholeCalls,
    },
    /// A constraint from each of these marks on to the end of the part that it opens; `once`: the answer ends there.
    Behind {
        /// The marks.
        marks: Arc<[CallMark]>,
        /// The guide at the beginning of the constrained part.
        guide: Guide,
        /// `true` if only one is wanted.
        once: bool,
        /// `true` if a part that cannot be kept in the constraint is free: the constraint is no promise.
        lenient: bool,
    },
}

impl Keep {
    /// Returns `true` if calls are kept in their form.
    #[must_use]
    pub const fn has_calls(&self) -> bool {
        match self {
            Self::Free => false,
            Self::Whole { calls, .. } => !matches!(calls, WholeCalls::None),
            Self::Behind { .. } => true,
        }
    }

    /// Returns `true` if the constraint is no promise.
    #[must_use]
    pub const fn is_lenient(&self) -> bool {
        matches!(self, Self::Behind { lenient: true, .. })
    }
}

/// The answers under a constraint on the whole that consist of calls, in which no stop text counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WholeCalls {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those that begin with this text.
    Beginning(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The answer may begin to think.
    Undecided,
    Thinking,
    /// Free text, in which a mark may come.
    Text,
    Kept,
    /// A call that had to be the last is complete.
    Over,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Flow {
    thinking: Option<Thinking>,
    keep: Keep,
    /// The guide at work, if a mark has opened it.
    active: Option<Guide>,
    state: State,
    /// The last bytes, in which a tag or mark may have begun.
    tail: Vec<u8>,
    /// `true` while the text that is no thinking may be the beginning of a mark that has to stand there; `tail` is all of it.
    at_beginning: bool,
    /// Tokens that are put into the answer.
    put: VecDeque<Token>,
    reasoning_tokens: u32,
    /// The watch for calls that repeat each other, after which the answer ends.
    repeats: Option<RepeatedCalls>,
}

impl Flow {
    /// Returns the phases at an answer's beginning.
    #[must_use]
    pub fn new(thinking: Option<Thinking>, keep: Keep) -> Self {
        let whole = matches!(keep, Keep::Whole { .. });
        let state = match &thinking {
            Some(thinking) if thinking.open => State::Thinking,
            // Thinking shows in the first token, or there is none.
            Some(thinking) if !whole || thinking.start.is_some() => State::Undecided,
            _ if whole => State::Kept,
            _ => State::Text,
        };
        let mut flow = Self {
            thinking,
            keep,
            active: None,
            state,
            tail: Vec::new(),
            at_beginning: true,
            put: VecDeque::new(),
            reasoning_tokens: 0,
            repeats: None,
        };
        flow.mind_budget();
        flow
    }

    /// Ends the answer after a call that repeats an earlier one.
    #[must_use]
    pub fn watching(self, repeats: Option<RepeatedCalls>) -> Self {
        Self { repeats, ..self }
    }

    /// Returns `true` if nothing ever happens in it.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.thinking.is_none() && matches!(self.keep, Keep::Free)
    }

    /// Returns `true` if the next token may have to be looked up in a constraint. Behind a mark that has not begun yet it is
    /// free text, which must not cost more than other free text.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        match &self.keep {
            Keep::Free => false,
            Keep::Whole { .. } => true,
            Keep::Behind { marks, .. } => {
                let may_begin = |mark: &CallMark| match mark.at_beginning {
                    true => self.at_beginning && self.state != State::Thinking && !self.tail.is_empty(),
                    false => ends_in_beginning(&self.tail, &mark.text),
                };
                self.state == State::Kept || marks.iter().any(may_begin)
            }
        }
    }

    /// Tokens that were thinking.
    #[must_use]
    pub const fn reasoning_tokens(&self) -> u32 {
        self.reasoning_tokens
    }

    /// Returns `true` if stop texts count at this point: not in thinking, and not in calls that are held to their form, which
    /// would be cut to something that is no call.
    #[must_use]
    pub fn stops_count(&self) -> bool {
        match (self.state, &self.keep) {
            (State::Thinking, _) | (State::Kept, Keep::Behind { .. }) => false,
            (State::Kept, Keep::Whole { calls: WholeCalls::Beginning(opening), .. }) => {
                let (said, opening) = (self.tail.as_slice(), opening.as_bytes());
                said.is_empty() || !said.starts_with(opening) && !opening.starts_with(said)
            }
            (State::Kept | State::Undecided, Keep::Whole { calls: WholeCalls::All, .. }) => false,
            _ => true,
        }
    }

    /// Advances as [`Self::accept`] does. Returns `true` if stop texts count in the text of this token.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn accept_counting(&mut self, token: Token, bytes: &[u8]) -> Result<bool, GuideError> {
        let before = self.stops_count();
        self.accept(token, bytes)?;
        Ok(before && self.stops_count())
    }

    fn guide(&mut self) -> Option<&mut Guide> {
        match (&mut self.active, &mut self.keep) {
            (Some(guide), _) | (None, Keep::Whole { guide, .. }) => Some(guide),
            _ => None,
        }
    }

    /// The tokens that have to come next, if there is no choice.
    pub fn forced(&mut self) -> Vec<Token> {
        if !self.put.is_empty() {
            return self.put.iter().copied().collect();
        }
        match self.state {
            State::Kept => self.guide().map(Guide::forced).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Writes the logits of the tokens that may come next; returns `true` if they are not all of them.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn restrict(&mut self, logits: &[f32], into: &mut Vec<f32>) -> Result<bool, GuideError> {
        let state = self.state;
        if !matches!(state, State::Kept | State::Undecided) {
            return Ok(self.refuse_behind_mark(logits, into));
        }
        let lenient = self.is_lenient();
        let Some(guide) = self.guide() else { return Ok(false) };
        if let Err(error) = guide.restrict(logits, into) {
            return if lenient { Ok(self.release()) } else { Err(error) };
        }
        if state == State::Undecided
            && let Some(start) = self.thinking.as_ref().and_then(|thinking| thinking.start)
            && let Ok(index) = usize::try_from(start)
            && let (Some(to), Some(from)) = (into.get_mut(index), logits.get(index))
        {
            *to = *from;
        }
        Ok(true)
    }

    /// Refuses the tokens that complete the mark behind which the constraint begins, and continue with what it does not allow.
    fn refuse_behind_mark(&self, logits: &[f32], into: &mut Vec<f32>) -> bool {
        let (mark, guide, trim) = match (&self.keep, self.state, &self.thinking) {
            (Keep::Behind { marks, guide, lenient: false, .. }, State::Text, _) => match &**marks {
                [mark] => (mark.text.as_str(), guide, false),
                _ => return false,
            },
            // Whitespace behind the tag belongs to it.
            (Keep::Whole { guide, .. }, State::Thinking, Some(thinking)) => (thinking.tags.1, guide, true),
            _ => return false,
        };
        let begun = (1..mark.len()).filter(|&len| self.tail.ends_with(&mark.as_bytes()[..len]));
        let refused: Vec<usize> =
            begun.flat_map(|len| guide.refused_behind(&mark.as_bytes()[len..], trim)).collect();
        if refused.is_empty() {
            return false;
        }
        into.clear();
        into.extend_from_slice(logits);
        for token in refused {
            if let Some(logit) = into.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        true
    }

    /// Handles the end that the model would choose. If something is still to come it stops thinking instead, and returns `true`.
    pub fn refuse_end(&mut self) -> bool {
        let refused = self.state == State::Thinking && matches!(self.keep, Keep::Whole { .. });
        if refused {
            self.end_thinking();
        }
        refused
    }

    fn end_thinking(&mut self) {
        if self.put.is_empty()
            && let Some(thinking) = &self.thinking
        {
            self.put.extend(thinking.close.iter());
        }
    }

    fn mind_budget(&mut self) {
        let budget = self.thinking.as_ref().and_then(|thinking| thinking.budget);
        if self.state == State::Thinking && budget.is_some_and(|budget| self.reasoning_tokens >= budget) {
            self.end_thinking();
        }
    }

    /// Advances by a token of the answer, and the bytes that it shows.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn accept(&mut self, token: Token, bytes: &[u8]) -> Result<(), GuideError> {
        let put = self.put.pop_front().is_some();
        match self.state {
            State::Undecided => self.decide(token, bytes)?,
            State::Thinking => {
                self.reasoning_tokens = self.reasoning_tokens.saturating_add(1);
                self.tail.extend_from_slice(bytes);
                self.look_for_end()?;
            }
            State::Text => {
                self.tail.extend_from_slice(bytes);
                self.look_for_mark()?;
            }
            // The token that ends the thinking may continue behind its tag.
            State::Kept if put => {}
            State::Kept => {
                let lenient = self.is_lenient();
                match self.guide().map(|guide| guide.accept(token)) {
                    Some(Err(_)) if lenient => _ = self.release(),
                    Some(Err(error)) => return Err(error),
                    Some(Ok(())) | None => {}
                }
                self.note_beginning(bytes);
                self.leave_call();
            }
            State::Over => {}
        }
        if self.repeats.as_mut().is_some_and(|repeats| repeats.push(bytes))
            && matches!(self.state, State::Kept | State::Text)
        {
            self.active = None;
            self.state = State::Over;
        }
        if !put {
            self.mind_budget();
        }
        Ok(())
    }

    fn decide(&mut self, token: Token, bytes: &[u8]) -> Result<(), GuideError> {
        let Some(thinking) = &self.thinking else { return Ok(()) };
        if let Keep::Whole { guide, .. } = &mut self.keep {
            if thinking.start == Some(token) {
                self.state = State::Thinking;
                self.reasoning_tokens = 1;
                return Ok(());
            }
            self.state = State::Kept;
            guide.accept(token)?;
            self.note_beginning(bytes);
            return Ok(());
        }
        self.tail.extend_from_slice(bytes);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(1);
        let said = self.tail.trim_ascii_start();
        let start = thinking.tags.0.as_bytes();
        if let Some(rest) = said.strip_prefix(start) {
            self.tail = rest.to_vec();
            self.state = State::Thinking;
            self.look_for_end()?;
        } else if !start.starts_with(said) {
            self.reasoning_tokens = 0;
            self.state = State::Text;
            self.look_for_mark()?;
        }
        Ok(())
    }

    fn look_for_end(&mut self) -> Result<(), GuideError> {
        let Some(thinking) = &self.thinking else { return Ok(()) };
        let end = thinking.tags.1.as_bytes();
        let Some(at) = find(&self.tail, end) else {
            keep_last(&mut self.tail, end.len() - 1);
            return Ok(());
        };
        self.tail.drain(..at + end.len());
        if let Keep::Whole { guide, .. } = &mut self.keep {
            self.state = State::Kept;
            // Whitespace behind the tag belongs to it.
            let rest = std::mem::take(&mut self.tail);
            guide.accept_bytes(rest.trim_ascii_start())?;
            self.note_beginning(rest.trim_ascii_start());
            return Ok(());
        }
        self.state = State::Text;
        self.look_for_mark()
    }

    fn look_for_mark(&mut self) -> Result<(), GuideError> {
        let Keep::Behind { marks, guide, .. } = &self.keep else {
            self.tail.clear();
            return Ok(());
        };
        let Some(at) = self.constrained_from(marks) else {
            self.at_beginning &= may_begin_with(&self.tail, marks);
            if !self.at_beginning {
                let longest =
                    marks.iter().filter(|mark| !mark.at_beginning).map(|mark| mark.text.len()).max();
                keep_last(&mut self.tail, longest.unwrap_or(1) - 1);
            }
            return Ok(());
        };
        let rest = self.tail.split_off(at);
        let mut guide = guide.clone();
        self.tail.clear();
        self.at_beginning = false;
        match guide.accept_bytes(&rest) {
            // The model has not begun a call of a known tool.
            Err(_) if self.is_lenient() => return Ok(()),
            accepted => accepted?,
        }
        self.active = Some(guide);
        self.state = State::Kept;
        self.leave_call();
        Ok(())
    }

    /// The place in the last text where the constraint begins, by the first of the marks in it.
    fn constrained_from(&self, marks: &[CallMark]) -> Option<usize> {
        let said = self.tail.trim_ascii_start();
        let places = marks.iter().filter_map(|mark| {
            let place = match mark.at_beginning {
                true if self.at_beginning && said.starts_with(mark.text.as_bytes()) => {
                    Some(self.tail.len() - said.len())
                }
                true => None,
                false => find(&self.tail, mark.text.as_bytes()),
            };
            Some((place?, mark.unconstrained))
        });
        places.min().map(|(place, unconstrained)| place + unconstrained)
    }

    /// Returns `true` if the constraint at work is no promise.
    const fn is_lenient(&self) -> bool {
        self.keep.is_lenient()
    }

    /// Gives the constraint at work up. Returns `false`: tokens are not restricted any more.
    fn release(&mut self) -> bool {
        self.active = None;
        self.state = State::Text;
        false
    }

    /// Keeps as much of the answer's beginning as decides whether it is a call.
    fn note_beginning(&mut self, bytes: &[u8]) {
        if let Keep::Whole { calls: WholeCalls::Beginning(opening), .. } = &self.keep {
            let missing = opening.len().saturating_sub(self.tail.len());
            self.tail.extend(bytes.iter().take(missing));
        }
    }

    /// Back to free text once a call is complete.
    fn leave_call(&mut self) {
        if self.active.as_ref().is_some_and(Guide::is_complete) {
            self.active = None;
            let once = matches!(self.keep, Keep::Behind { once: true, .. });
            self.state = if once { State::Over } else { State::Text };
        }
    }

    /// Returns `true` if the answer is complete and nothing can follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match (&self.keep, self.state) {
            (_, State::Over) => true,
            (Keep::Whole { guide, .. }, State::Kept) => guide.is_complete(),
            _ => false,
        }
    }
}

/// Returns `true` if one of the marks that count at the beginning of an answer may become one of the text `tail`.
fn may_begin_with(tail: &[u8], marks: &[CallMark]) -> bool {
    /// Maximum length of whitespace before such a mark.
    const MAX_WHITESPACE: usize = 64;
    let said = tail.trim_ascii_start();
    tail.len() - said.len() <= MAX_WHITESPACE
        && marks.iter().any(|mark| mark.at_beginning && mark.text.as_bytes().starts_with(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes are tokens here.
    fn thinking(open: bool, budget: Option<u32>) -> Option<Thinking> {
        let close: Vec<Token> = b"\n</think>\n\n".iter().map(|&b| Token::from(b)).collect();
        Some(Thinking { tags: ("<think>", "</think>"), open, start: None, close: close.into(), budget })
    }

    fn take(flow: &mut Flow, text: &str) {
        for &byte in text.as_bytes() {
            flow.accept(Token::from(byte), &[byte]).unwrap();
        }
    }

    #[test]
    fn a_budget_ends_the_thinking() {
        let mut flow = Flow::new(thinking(true, Some(3)), Keep::Free);
        take(&mut flow, "ab");
        assert!(flow.forced().is_empty() && !flow.stops_count());
        take(&mut flow, "c");
        let put: Vec<u8> = flow.forced().iter().map(|&t| u8::try_from(t).unwrap()).collect();
        assert_eq!(put, b"\n</think>\n\n");
        take(&mut flow, "\n</think>\n\n");
        assert!(flow.forced().is_empty() && flow.stops_count());
        assert_eq!(flow.reasoning_tokens(), 12);
        take(&mut flow, "more");
        assert_eq!(flow.reasoning_tokens(), 12);
    }

    #[test]
    fn no_budget_is_no_thinking() {
        let mut flow = Flow::new(thinking(true, Some(0)), Keep::Free);
        assert_eq!(flow.forced().len(), 11);
        take(&mut flow, "\n</think>\n\nyes");
        assert!(flow.forced().is_empty());
    }

    #[test]
    fn thinking_shows_at_the_beginning_or_never() {
        let mut flow = Flow::new(thinking(false, None), Keep::Free);
        take(&mut flow, "\n<think>ab</thi");
        assert!(!flow.stops_count());
        take(&mut flow, "nk>");
        assert!(flow.stops_count());
        let mut flow = Flow::new(thinking(false, Some(1)), Keep::Free);
        take(&mut flow, "yes <think>");
        assert!(flow.stops_count() && flow.forced().is_empty());
        assert_eq!(flow.reasoning_tokens(), 0);
    }

    #[test]
    fn stop_texts_count_outside_of_thinking() {
        let mut flow = Flow::new(thinking(false, None), Keep::Free);
        let counted: Vec<bool> = b"<think>a</think>b"
            .iter()
            .map(|&byte| flow.accept_counting(Token::from(byte), &[byte]).unwrap())
            .collect();
        // The tag shows with its last byte; a tag that is one token never counts.
        assert_eq!(counted.iter().filter(|counted| **counted).count(), 7);
        assert!(counted[..6].iter().all(|counted| *counted) && counted[16]);
    }
}
