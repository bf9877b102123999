//! Opaque cursors: a position in a list that remains valid when the object at it is changed or deleted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ids::ConversationId;
use super::types::Position;

const PREFIX: &str = "cur_";

impl Position {
    /// Returns the position as text.
    #[must_use]
    pub fn to_cursor(self) -> String {
        let bytes = [self.updated_us.to_be_bytes().as_slice(), &self.id.to_bytes()].concat();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns the position of a cursor; `None`: the text is not a cursor.
    #[must_use]
    pub fn from_cursor(cursor: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor.strip_prefix(PREFIX)?).ok()?;
        let (updated_us, id) = bytes.split_first_chunk::<8>()?;
        let id = ConversationId::from_bytes(<[u8; 16]>::try_from(id).ok()?);
        Some(Self { updated_us: u64::from_be_bytes(*updated_us), id })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_round_trip(updated_us: u64, id: [u8; 16]) {
            let position = Position { updated_us, id: ConversationId::from_bytes(id) };
            prop_assert_eq!(Position::from_cursor(&position.to_cursor()), Some(position));
        }

        #[test]
        fn invalid_cursors_are_refused(text in "(cur_)?[A-Za-z0-9_=-]{0,40}") {
            if let Some(position) = Position::from_cursor(&text) {
                prop_assert_eq!(position.to_cursor(), text);
            }
        }
    }
}
