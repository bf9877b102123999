//! HTTP/1.1 answers off a byte stream, as far as a benchmark needs them: status, chunked bodies, lines.

/// Takes in bytes as they come and hands out the body's whole lines.
#[derive(Debug, Default)]
pub struct Answer {
    input: Vec<u8>,
    state: State,
    body: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Head,
    /// Not chunked: the body lasts until the connection closes.
    Plain,
    ChunkSize,
    Chunk(usize),
    /// The line end behind a chunk.
    ChunkEnd,
    Done,
}

impl Answer {
    /// Where the next bytes are to be read to.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// The lines of the body that are whole by now.
    ///
    /// # Errors
    /// The status and what there is of the body, when the status is not 200; or what is no HTTP.
    pub fn lines(&mut self) -> Result<Vec<String>, String> {
        while self.advance()? {}
        let Some(end) = self.body.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.body.split_off(end + 1);
        let whole = std::mem::replace(&mut self.body, rest);
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }

    /// Consumes one piece of the input, if one is whole.
    fn advance(&mut self) -> Result<bool, String> {
        match self.state {
            State::Head => {
                let Some(end) = find(&self.input, b"\r\n\r\n") else { return Ok(false) };
                let head = String::from_utf8_lossy(&self.input[..end]).to_ascii_lowercase();
                if !head.starts_with("http/1.1 200") {
                    return Err(String::from_utf8_lossy(&self.input).into_owned());
                }
                self.input.drain(..end + 4);
                let chunked = head.contains("transfer-encoding: chunked");
                self.state = if chunked { State::ChunkSize } else { State::Plain };
            }
            State::Plain => {
                self.body.append(&mut self.input);
                return Ok(false);
            }
            State::ChunkSize => {
                let Some(end) = find(&self.input, b"\r\n") else { return Ok(false) };
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                let size = usize::from_str_radix(line.trim(), 16).map_err(|e| format!("{line:?}: {e}"))?;
                self.input.drain(..end + 2);
                self.state = if size == 0 { State::Done } else { State::Chunk(size) };
            }
            State::Chunk(left) => {
                if self.input.is_empty() {
                    return Ok(false);
                }
                let now = left.min(self.input.len());
                self.body.extend(self.input.drain(..now));
                self.state = if now == left { State::ChunkEnd } else { State::Chunk(left - now) };
            }
            State::ChunkEnd => {
                if self.input.len() < 2 {
                    return Ok(false);
                }
                self.input.drain(..2);
                self.state = State::ChunkSize;
            }
            State::Done => return Ok(false),
        }
        Ok(true)
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
