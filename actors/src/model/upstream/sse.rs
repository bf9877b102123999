//! Server-sent events, parsed as their bytes arrive.
//!
//! Pure: bytes in, events out, with bounds on a line and on an event, so that no upstream makes this server keep more than that.
//! Source: [HTML, section 9.2.6](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation). The
//! crates that are widely used (`eventsource-stream`) have no bounds, hence this one. Fields other than `event` and `data` have
//! no meaning for answers of a model.

use std::collections::VecDeque;

/// Maximum length of a line in bytes. The longest honest ones have the log-probabilities of a token, some kilobytes.
pub const MAX_LINE: usize = 1 << 20;
/// Maximum length of the data of an event in bytes.
pub const MAX_EVENT: usize = 1 << 20;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its type; empty where none is given.
    pub event: String,
    /// Its data; lines are separated by `\n`.
    pub data: String,
}

/// The bytes are not events, or exceed the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line is longer than [`MAX_LINE`].
    #[error("a line of its stream is longer than {MAX_LINE} bytes")]
    LineTooLong,
    /// The data of an event is longer than [`MAX_EVENT`].
    #[error("an event of its stream is longer than {MAX_EVENT} bytes")]
    EventTooLong,
    /// A line is not UTF-8.
    #[error("its stream is not UTF-8")]
    NotUtf8,
}

/// The parser.
#[derive(Debug, Default)]
pub struct SseParser {
    /// The line so far.
    line: Vec<u8>,
    /// `true` behind a CR, which may be the first half of a line's end.
    after_cr: bool,
    /// `true` once the first line has ended, which alone may begin with a byte order mark.
    is_begun: bool,
    event: SseEvent,
    has_data: bool,
    ready: VecDeque<SseEvent>,
}

impl SseParser {
    /// Takes more bytes, cut anywhere. The events that they complete are [`next`](Self::next)'s.
    ///
    /// # Errors
    /// See [`SseError`]; the parser is of no use afterwards.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > MAX_LINE {
                return Err(SseError::LineTooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line()?;
        }
        Ok(())
    }

    /// Returns the next complete event. Data without the empty line behind it, at the end of a stream, is none.
    pub fn next(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        let line = if self.is_begun { line } else { line.strip_prefix('\u{feff}').unwrap_or(line) };
        self.is_begun = true;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                self.ready.push_back(event);
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.event.data.len() + value.len() + 1 > MAX_EVENT {
                    return Err(SseError::EventTooLong);
                }
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "event" => value.clone_into(&mut self.event.event),
            // A comment has the empty field name.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(chunks: &[&[u8]]) -> Result<Vec<SseEvent>, SseError> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk)?;
            events.extend(std::iter::from_fn(|| parser.next()));
        }
        Ok(events)
    }

    fn event(event: &str, data: &str) -> SseEvent {
        SseEvent { event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn lines_fields_and_comments_are_those_of_the_standard() {
        let text = "\u{feff}data:a\n\n: ping\n\ndata: b\rdata:  c\r\nid: 7\nretry: 1\n\r\nevent: error\ndata\n\nevent: x\n\ndata: cut";
        let expected = [event("", "a"), event("", "b\n c"), event("error", "")];
        assert_eq!(parsed(&[text.as_bytes()]).unwrap(), expected);
        // A byte order mark elsewhere is part of a name.
        assert_eq!(parsed(&["\n\u{feff}data: a\n\n".as_bytes()]).unwrap(), []);
    }

    #[test]
    fn bounds_hold() {
        let long = vec![b'x'; MAX_LINE + 1];
        assert_eq!(parsed(&[&long]), Err(SseError::LineTooLong));
        let half = format!("data: {}\n", "x".repeat(MAX_EVENT / 2));
        assert_eq!(parsed(&[half.as_bytes(), half.as_bytes()]), Err(SseError::EventTooLong));
        let two = format!("{half}\n{half}\n");
        assert_eq!(parsed(&[two.as_bytes()]).unwrap().len(), 2);
        assert_eq!(parsed(&[b"data: \xff\n"]), Err(SseError::NotUtf8));
    }

    fn streams() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            4 => "data: ?[a-zäß€𝄞:\u{feff} ]{0,12}",
            1 => "event: ?[a-zä]{0,4}",
            1 => ":.{0,5}",
            1 => "[a-z: ]{0,6}",
            3 => Just(String::new()),
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        prop::collection::vec((line, end), 0..30).prop_map(|lines| {
            lines.into_iter().map(|(line, end)| line.replace(['\n', '\r'], "") + end).collect()
        })
    }

    proptest! {
        /// The events do not depend on the places at which a stream is cut, also within characters and line ends.
        #[test]
        fn cuts_do_not_matter(stream in streams(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parsed(&chunks), parsed(&[bytes]));
        }

        /// No input panics, and what is kept is bounded.
        #[test]
        fn any_bytes_are_taken(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut parser = SseParser::default();
            for chunk in &chunks {
                if parser.push(chunk).is_err() {
                    break;
                }
            }
            prop_assert!(parser.line.len() <= MAX_LINE && parser.event.data.len() <= MAX_EVENT);
        }

        /// Any data comes back as it was sent.
        #[test]
        fn data_survives(data in "[^\r]{0,60}", event in "[a-z]{0,5}") {
            let lines: String = data.split('\n').map(|line| format!("data: {line}\n")).collect();
            let stream = format!("event: {event}\n{lines}\n");
            prop_assert_eq!(parsed(&[stream.as_bytes()]).unwrap(), [SseEvent { event, data }]);
        }
    }
}
