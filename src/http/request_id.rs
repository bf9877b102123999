use std::fmt;
use std::sync::Arc;

use http::HeaderValue;

/// A request's id: the caller's `X-Request-Id` if it is valid, else a new UUID (version 7, so ids sort by time). Always
/// 1 to 128 characters of `[A-Za-z0-9._-]`, so it is safe in headers, logs and JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Returns the caller's id, or a new one.
    #[must_use]
    pub fn from_header(header: Option<&HeaderValue>) -> Self {
        match header.and_then(|value| value.to_str().ok()).filter(|text| is_sane(text)) {
            Some(text) => Self(text.into()),
            None => Self(uuid::Uuid::now_v7().to_string().into()),
        }
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("an id holds only characters that headers may hold")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_sane(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_are_always_sane(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let header = HeaderValue::from_bytes(&bytes).ok();
            prop_assert!(is_sane(RequestId::from_header(header.as_ref()).as_str()));
        }

        #[test]
        fn sane_ids_are_kept(text in "[A-Za-z0-9._-]{1,128}") {
            let header = HeaderValue::from_str(&text).unwrap();
            let id = RequestId::from_header(Some(&header));
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn insane_ids_are_replaced() {
        for text in ["", "a b", "a/b", "ä", &"x".repeat(129)] {
            let header = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_ne!(RequestId::from_header(Some(&header)).as_str(), text);
        }
        assert_ne!(RequestId::from_header(None), RequestId::from_header(None));
    }
}
