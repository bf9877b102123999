//! The two [bodies](super::bodies) of a response.
//!
//! A request body has the items since the response that it continues, and refers to the request body of that one
//! ([`response_links`](super::response_links)).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bodies::{Bodies, Body};
use super::codec::{decode, encode};
use super::response_header::{Header, SplitHeader};
use super::response_links::Link;
use super::responses::SledResponses;
use super::tombstones::{self, Tombstone};
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use crate::store::{StoreError, readable};

/// A request body.
#[derive(Deserialize)]
struct RequestBody {
    created_at: u64,
    background: bool,
    shown: Value,
    /// The body that it continues: the items of that one come first.
    #[serde(default)]
    before: Option<Body>,
    history: Vec<Value>,
    input: Vec<Value>,
}

/// A request body to be written.
#[derive(Serialize)]
struct NewRequestBody<'a> {
    created_at: u64,
    background: bool,
    shown: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Body>,
    history: &'a [Value],
    input: &'a [Value],
}

/// A result body.
#[derive(Serialize, Deserialize)]
struct ResultBody {
    deltas: Vec<Delta>,
    end: End,
}

impl SledResponses {
    /// The body that a response may refer to for the beginning of its history, and the number of items there.
    fn continued_body(&self, record: &ResponseRecord) -> Result<Option<(Body, usize)>, StoreError> {
        let previous = record.shown["previous_response_id"].as_str().and_then(|id| id.parse().ok());
        let Some(Header::Split(split)) = previous.map(|id| self.header(id)).transpose()?.flatten() else {
            return Ok(None);
        };
        if split.user != record.user {
            return Ok(None);
        }
        let Some(RequestBody { history, input, .. }) = readable(self.read_request(&split.request))?.flatten()
        else {
            return Ok(None);
        };
        let items = history.len() + input.len();
        // The caller's history may differ from that of the response it names.
        let same = items > 0
            && items <= record.history.len()
            && history.iter().chain(&input).eq(&record.history[..items]);
        Ok(same.then_some((split.request, items)))
    }

    /// A request body with the items of all that it continues. `None`: a part is missing.
    fn read_request(&self, body: &Body) -> Result<Option<RequestBody>, StoreError> {
        let read = |body: &Body| -> Result<Option<RequestBody>, StoreError> {
            let bytes = self.bodies.read(&body.id, body.parts)?;
            bytes.map(|bytes| decode(|| "the request of a response".to_owned(), &bytes)).transpose()
        };
        let Some(mut request) = read(body)? else { return Ok(None) };
        let mut earlier = Vec::new();
        let mut next = request.before.take();
        while let Some(body) = next {
            let Some(RequestBody { before, history, input, .. }) = read(&body)? else { return Ok(None) };
            earlier.push([history, input].concat());
            next = before;
        }
        let own = std::mem::take(&mut request.history);
        request.history = earlier.into_iter().rev().flatten().chain(own).collect();
        Ok(Some(request))
    }

    /// Writes a request body, with a reference to the one that it continues.
    pub(super) fn write_request(&self, record: &ResponseRecord) -> Result<Body, StoreError> {
        let ResponseRecord { user, created_at, background, ref shown, ref history, ref input, .. } = *record;
        let bytes = |before: Option<&(Body, usize)>| {
            let (before, items) = before.map_or((None, 0), |(body, items)| (Some(body.clone()), *items));
            encode(&NewRequestBody {
                created_at,
                background,
                shown,
                before,
                history: &history[items..],
                input,
            })
        };
        let id = Bodies::new_id();
        if let Some(before) = self.continued_body(record)? {
            let bytes = bytes(Some(&before));
            let referred = self.linked(|links| {
                let Some(depth) = links.refer(&before.0, user)? else { return Ok(false) };
                let link = Link { depth, before: Some(before.0.id), ..Link::new(user, bytes.len() as u64) };
                links.put(id, &link)?;
                links.tombstones.insert(&Tombstone::Body(id).key(), tombstones::STAGED)?;
                Ok(true)
            })?;
            if referred {
                return self.bodies.write(id, &bytes);
            }
        }
        let bytes = bytes(None);
        self.linked(|links| {
            links.put(id, &Link::new(user, bytes.len() as u64))?;
            links.tombstones.insert(&Tombstone::Body(id).key(), tombstones::STAGED)?;
            Ok(())
        })?;
        self.bodies.write(id, &bytes)
    }

    /// Writes a result body.
    pub(super) fn write_result(&self, deltas: Vec<Delta>, end: End) -> Result<Body, StoreError> {
        self.bodies.stage(&encode(&ResultBody { deltas, end }))
    }

    /// Reads the response of a header. `None`: a part is missing.
    pub(super) fn read(&self, id: ResponseId, header: &Header) -> Result<Option<ResponseRecord>, StoreError> {
        let what = || id.to_string();
        match header {
            Header::Whole { user, parts } => {
                let Some(body) = self.bodies.read(&id.to_bytes(), *parts)? else { return Ok(None) };
                let record: ResponseRecord = decode(what, &body)?;
                Ok(Some(ResponseRecord { user: *user, ..record }))
            }
            Header::Split(SplitHeader { user, request, result }) => {
                let Some(request) = self.read_request(request)? else { return Ok(None) };
                let RequestBody { created_at, background, shown, history, input, .. } = request;
                let (mut deltas, mut end) = (Vec::new(), None);
                if let Some(result) = result {
                    let Some(body) = self.bodies.read(&result.id, result.parts)? else { return Ok(None) };
                    let result: ResultBody = decode(what, &body)?;
                    (deltas, end) = (result.deltas, Some(result.end));
                }
                let record = ResponseRecord::new(*user, created_at, shown);
                Ok(Some(ResponseRecord { id, background, history, input, deltas, end, ..record }))
            }
        }
    }
}
