//! The encoding of an item: its node first, so that the shape of a conversation is read without parsing contents, then
//! its JSON.
//!
//! ```text
//! parent (4 bytes, all ones: none) | flags (1) | created at (8) | length of the id (1) | id | JSON
//! ```
//! Split into chunks, all but the last of [`CHUNK`] bytes. An item whose body was staged has a reference to that
//! [body](super::bodies) in place of the JSON:
//!
//! ```text
//! body id (16 bytes) | number of parts (4) | size (8)
//! ```

use serde_json::{Map, Value};

use super::bodies::Body;
use crate::conversations::Node;
use crate::conversations::types::StoredItem;
use crate::store::StoreError;

/// sled wants values below 100 KiB.
pub const CHUNK: usize = 64 * 1024;

const NO_PARENT: u32 = u32::MAX;
const DELETED: u8 = 1;
const PENDING: u8 = 2;
const REFERS: u8 = 4;
const HEADER: usize = 14;

/// The content of an item.
#[derive(Debug, PartialEq)]
pub enum Content<'a> {
    /// The body as JSON.
    Json(&'a [u8]),
    /// A reference to the body.
    Refers(Body),
}

/// The chunks of an item; at least one.
pub fn write(item: &StoredItem) -> Vec<Vec<u8>> {
    let mut whole = header(&item.node, 0);
    serde_json::to_writer(&mut whole, &item.body).expect("a JSON object has a JSON form");
    whole.chunks(CHUNK).map(<[u8]>::to_vec).collect()
}

/// The only chunk of an item that refers to its body.
pub fn write_reference(node: &Node, body: &Body) -> Vec<u8> {
    let mut whole = header(node, REFERS);
    whole.extend_from_slice(&body.id);
    whole.extend_from_slice(&body.parts.to_be_bytes());
    whole.extend_from_slice(&body.bytes.to_be_bytes());
    whole
}

fn header(node: &Node, mut flags: u8) -> Vec<u8> {
    flags |= if node.deleted { DELETED } else { 0 };
    flags |= if node.pending { PENDING } else { 0 };
    // Ids are generated or checked to be short.
    let id_length = u8::try_from(node.id.len()).expect("an item's id has at most 64 bytes");
    let mut whole = Vec::with_capacity(256);
    whole.extend_from_slice(&node.parent.unwrap_or(NO_PARENT).to_be_bytes());
    whole.push(flags);
    whole.extend_from_slice(&node.created_at.to_be_bytes());
    whole.push(id_length);
    whole.extend_from_slice(node.id.as_bytes());
    whole
}

/// Returns `true` if another chunk may follow the first one.
pub fn has_more(first: &[u8]) -> bool {
    first.len() >= CHUNK
}

/// An item's node, from its first chunk.
pub fn read_node(number: u32, first: &[u8]) -> Result<Node, StoreError> {
    split(number, first).map(|(node, _)| node)
}

/// An item's node and content, from its concatenated chunks.
pub fn read(number: u32, whole: &[u8]) -> Result<(Node, Content<'_>), StoreError> {
    let (node, rest) = split(number, whole)?;
    if !refers(whole) {
        return Ok((node, Content::Json(rest)));
    }
    let body = reference(rest).ok_or_else(|| StoreError::Value {
        what: format!("item {number}"),
        problem: "it refers to no body".to_owned(),
    })?;
    Ok((node, Content::Refers(body)))
}

/// An item from its node and the JSON of its body.
pub fn item(node: Node, json: &[u8]) -> Result<StoredItem, StoreError> {
    let body: Map<String, Value> = super::codec::decode(|| format!("item {}", node.id), json)?;
    Ok(StoredItem { node, body })
}

/// The body that an item refers to, from its first chunk; `None` for a damaged one as well.
pub fn referred_body(first: &[u8]) -> Option<[u8; 16]> {
    let (_, rest) = refers(first).then(|| split(0, first).ok()).flatten()?;
    reference(rest).map(|body| body.id)
}

fn refers(first: &[u8]) -> bool {
    first.get(4).is_some_and(|flags| flags & REFERS != 0)
}

fn reference(bytes: &[u8]) -> Option<Body> {
    let (id, rest) = bytes.split_first_chunk()?;
    let (parts, rest) = rest.split_first_chunk()?;
    let bytes = u64::from_be_bytes(rest.try_into().ok()?);
    Some(Body { id: *id, parts: u32::from_be_bytes(*parts), bytes })
}

fn split(number: u32, bytes: &[u8]) -> Result<(Node, &[u8]), StoreError> {
    let parse = || {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [p0, p1, p2, p3, flags, created @ .., id_length] = *header;
        let (id, json) = rest.split_at_checked(usize::from(id_length))?;
        let parent = u32::from_be_bytes([p0, p1, p2, p3]);
        let node = Node {
            number,
            parent: (parent != NO_PARENT).then_some(parent),
            id: std::str::from_utf8(id).ok()?.to_owned(),
            created_at: u64::from_be_bytes(created),
            deleted: flags & DELETED != 0,
            pending: flags & PENDING != 0,
        };
        Some((node, json))
    };
    parse().ok_or_else(|| StoreError::Value {
        what: format!("item {number}"),
        problem: "it does not begin with a node".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn items_are_read_as_written(
            number in 0..u32::MAX, parent in proptest::option::of(0..u32::MAX), deleted: bool, pending: bool,
            created_at: u64, id in "[a-z]{1,8}_[0-9a-f]{1,50}", text in ".{0,40}", times in 1..8000usize,
        ) {
            let node = Node { number, parent, id, created_at, deleted, pending };
            let body = json!({"text": text.repeat(times)}).as_object().unwrap().clone();
            let item = StoredItem { node, body };
            let chunks = write(&item);
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK));
            prop_assert_eq!(has_more(&chunks[0]), chunks[0].len() == CHUNK);
            prop_assert_eq!(&read_node(number, &chunks[0]).unwrap(), &item.node);
            prop_assert_eq!(referred_body(&chunks[0]), None);
            let whole = chunks.concat();
            let (node, content) = read(number, &whole).unwrap();
            let Content::Json(json) = content else { panic!("{content:?}") };
            prop_assert_eq!(super::item(node, json).unwrap(), item);
        }

        #[test]
        fn references_are_read_as_written(
            number in 0..u32::MAX, deleted: bool, pending: bool, id in "[a-z]{1,8}_[0-9a-f]{1,50}",
            body: [u8; 16], parts: u32, bytes: u64,
        ) {
            let node = Node { number, parent: None, id, created_at: 7, deleted, pending };
            let body = Body { id: body, parts, bytes };
            let chunk = write_reference(&node, &body);
            prop_assert!(!has_more(&chunk));
            prop_assert_eq!(&read_node(number, &chunk).unwrap(), &node);
            prop_assert_eq!(referred_body(&chunk), Some(body.id));
            prop_assert_eq!(read(number, &chunk).unwrap(), (node, Content::Refers(body)));
        }

        #[test]
        fn damage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (read(1, &bytes), referred_body(&bytes));
        }
    }
}
