//! Log-probabilities on their way to the client, kept back until their tokens' text has left.
//!
//! Text can be held back in the worker (a character that is not complete, a possible beginning of a stop text), and a stop text
//! is cut off in the end. Log-probabilities wait here for it, on the server's side, so that they outlive the worker as the tokens
//! do.

use std::collections::VecDeque;

use crate::report::PlacedLogprob;
use crate::types::TokenLogprob;

/// The log-probabilities of one answer that have not left.
#[derive(Clone, Debug, Default)]
pub struct HeldLogprobs {
    held: VecDeque<PlacedLogprob>,
    /// Bytes of text that have left.
    sent: u64,
}

impl HeldLogprobs {
    /// Takes the log-probabilities of new tokens and the text that leaves now; returns those that leave with it.
    pub fn push(&mut self, text: &str, new: impl IntoIterator<Item = PlacedLogprob>) -> Vec<TokenLogprob> {
        self.held.extend(new);
        self.sent += text.len() as u64;
        let sent = self.sent;
        let ready = self.held.partition_point(|placed| placed.text_end <= sent);
        self.held.drain(..ready).map(released).collect()
    }

    /// Ends the answer, with the last text. If a stop text ended it, tokens that begin behind the last text are part of the stop
    /// text and dropped.
    pub fn finish(&mut self, text: &str, stop_text: bool) -> Vec<TokenLogprob> {
        self.sent += text.len() as u64;
        let sent = self.sent;
        self.held.drain(..).filter(|placed| !stop_text || placed.text_start < sent).map(released).collect()
    }
}

/// Returns its form after its text was released.
pub fn released(placed: PlacedLogprob) -> TokenLogprob {
    TokenLogprob { chosen: placed.chosen, top: placed.top, text_offset: placed.text_offset }
}
