//! Text from token pieces: whole UTF-8 characters only, and never a part of a stop text.
//!
//! A token's piece is bytes: one character can be spread over several tokens, and one token can hold invalid bytes. The
//! concatenated output is what [`String::from_utf8_lossy`] makes of all the bytes at once, cut before the first stop text: it
//! does not depend on how the bytes were split. And it depends on nothing but the pieces, so a resumed request that pushes its
//! old tokens' pieces again gets the same deltas again.

/// Turns the pieces of generated tokens into text deltas.
///
/// Holds back an incomplete UTF-8 character, and all text that could still become a stop text. Work a byte is constant for each
/// stop text, regardless of the texts; the held text is no longer than the longest stop text and one piece.
#[derive(Clone, Debug)]
pub struct TextAssembler {
    stops: Vec<StopMatcher>,
    /// The start of a character whose other bytes have not come yet: at most 3 bytes.
    incomplete: Vec<u8>,
    /// Decoded text that has not been released.
    held: String,
    /// The number of bytes of text before `held`.
    released: usize,
    /// Characters of the text so far, whether released or held.
    characters: usize,
    /// The position in the text at which the first complete stop text begins.
    cut: Option<usize>,
    stopped: bool,
    /// `true` if stop texts count now.
    watching: bool,
}

/// The text released by a push or the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// Text for the caller; can be empty.
    pub text: String,
    /// `true` if a stop text has ended the answer. Nothing is released any more after that.
    pub stopped: bool,
}

impl TextAssembler {
    /// An assembler that ends at the first of these stop texts. Empty ones are ignored.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty());
        Self {
            stops: stops.map(StopMatcher::new).collect(),
            incomplete: Vec::new(),
            held: String::new(),
            released: 0,
            characters: 0,
            cut: None,
            stopped: false,
            watching: true,
        }
    }

    /// Sets whether stop texts count from now on; one that begins before they do is none.
    pub fn watch(&mut self, watching: bool) {
        self.watching = watching;
    }

    /// Takes the next token's piece and releases the certain text.
    ///
    /// A complete stop text ends the answer at once, unless another that began before it can still become complete: then the
    /// decision waits for the next piece, since the earliest beginning counts.
    pub fn push(&mut self, piece: &[u8]) -> Push {
        if self.stopped {
            return Push { text: String::new(), stopped: true };
        }
        self.incomplete.extend_from_slice(piece);
        let from = self.held.len();
        decode_complete(&mut self.incomplete, &mut self.held);
        self.examine(from);
        let undecided = self.stops.iter().map(StopMatcher::pending).max().unwrap_or(0);
        let undecided = self.end() - undecided;
        match self.cut {
            Some(cut) if cut <= undecided => self.stop_at(cut),
            _ => Push { text: self.release_to(undecided), stopped: false },
        }
    }

    /// Releases the held text at the end of the answer, an incomplete character as U+FFFD. `stopped` is true if a stop text had
    /// ended the answer, also if that is certain only now.
    pub fn finish(&mut self) -> Push {
        if self.stopped {
            return Push { text: String::new(), stopped: true };
        }
        let from = self.held.len();
        self.held.push_str(&String::from_utf8_lossy(&self.incomplete));
        self.incomplete.clear();
        self.examine(from);
        match self.cut {
            Some(cut) => self.stop_at(cut),
            None => Push { text: self.release_to(self.end()), stopped: false },
        }
    }

    /// The length of the text so far, in bytes, whether released or held.
    pub fn end(&self) -> usize {
        self.released + self.held.len()
    }

    /// Returns the same in characters.
    pub fn characters(&self) -> usize {
        self.characters
    }

    /// Counts the held text from `from` on and looks for stop texts in it.
    fn examine(&mut self, from: usize) {
        self.characters += self.held[from..].chars().count();
        if !self.watching {
            // A stop text consists of neighbouring text, so the beginning of one is none any more.
            self.stops.iter_mut().for_each(|stop| stop.matched = 0);
            return;
        }
        let start = self.released + from;
        for stop in &mut self.stops {
            if let Some(end) = stop.advance(&self.held.as_bytes()[from..]) {
                let begin = start + end - stop.pattern.len();
                self.cut = Some(self.cut.map_or(begin, |cut| cut.min(begin)));
            }
        }
    }

    fn stop_at(&mut self, cut: usize) -> Push {
        let text = self.release_to(cut);
        self.held.clear();
        self.incomplete.clear();
        self.stopped = true;
        Push { text, stopped: true }
    }

    /// Releases the text up to a position, which is a character's boundary: a stop text begins there or the text ends.
    fn release_to(&mut self, position: usize) -> String {
        let text: String = self.held.drain(..position - self.released).collect();
        self.released = position;
        text
    }
}

/// Moves every complete character of `bytes` to `text`, with U+FFFD for invalid bytes exactly as
/// [`String::from_utf8_lossy`] has it, and leaves the start of an incomplete one.
fn decode_complete(bytes: &mut Vec<u8>, text: &mut String) {
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let last = done + invalid.len() == bytes.len();
        if last && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        done += invalid.len();
    }
    bytes.drain(..done);
}

/// Finds the first occurrence of one stop text in a stream of bytes (Knuth, Morris and Pratt).
#[derive(Clone, Debug)]
struct StopMatcher {
    pattern: Vec<u8>,
    /// `borders[i]`: length of the longest proper prefix of `pattern[..=i]` that is also its suffix.
    borders: Vec<usize>,
    /// The length of the part of the pattern that the end of the stream matches.
    matched: usize,
    found: bool,
}

impl StopMatcher {
    fn new(stop: &str) -> Self {
        let pattern = stop.as_bytes().to_vec();
        let mut borders: Vec<usize> = vec![0; pattern.len()];
        let mut border = 0;
        for index in 1..pattern.len() {
            while border > 0 && pattern[border] != pattern[index] {
                border = borders[border - 1];
            }
            if pattern[border] == pattern[index] {
                border += 1;
            }
            borders[index] = border;
        }
        Self { pattern, borders, matched: 0, found: false }
    }

    /// Takes more of the stream; where the pattern occurs for the first time, how many of these bytes it took.
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.found {
            return None;
        }
        for (index, &byte) in bytes.iter().enumerate() {
            while self.matched > 0 && self.pattern[self.matched] != byte {
                self.matched = self.borders[self.matched - 1];
            }
            if self.pattern[self.matched] == byte {
                self.matched += 1;
            }
            if self.matched == self.pattern.len() {
                self.found = true;
                return Some(index + 1);
            }
        }
        None
    }

    /// Returns the number of bytes at the end of the stream that could still become the first occurrence.
    fn pending(&self) -> usize {
        if self.found { 0 } else { self.matched }
    }
}

#[cfg(test)]
#[path = "text_assembler_tests.rs"]
mod tests;
