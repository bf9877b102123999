//! Writing and reading of the lines of an export. Pure.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Counts;
use crate::identity::UserId;
use crate::store::{KINDS, Record, SCHEMA, StoreError, Stores, record_kind, upgrade};

/// The version of the lines. A newer version is refused.
pub const FORMAT: u32 = 1;

/// Maximum number of records read from the store at a time.
const PAGE: usize = 256;
/// Approximate maximum number of bytes read at a time.
const PAGE_BYTES: usize = 256 << 10;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    kind: String,
    /// The version of the lines.
    pub format: u32,
    /// The version of the records.
    pub schema: u32,
    /// The id of the store.
    pub store: String,
    /// Time at which the export began.
    pub created_at: String,
    /// The user whose records the export is restricted to; `None`: all records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
}

#[derive(Serialize)]
struct Trailer<'a> {
    kind: &'a str,
    records: &'a Counts,
    sha256: &'a str,
}

#[derive(Deserialize)]
struct Line {
    kind: String,
    key: String,
    value: Value,
}

/// The reason why an export failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The reason why an export is not imported. In each of these cases nothing of it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Its first line is not a header.
    #[error("this is not an export of this program: its first line is not a header ({0})")]
    NotAnExport(String),
    /// It was made by a newer version of this program.
    #[error(
        "the export was made by a newer version of this program ({what} {found}, this one knows up to {known}): \
         import it with that version"
    )]
    Newer {
        /// `format` or `schema`.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest supported version.
        known: u32,
    },
    /// A line is not a record.
    #[error(
        "line {number} of the export is not a record: {problem}. It was damaged or edited; use another copy"
    )]
    Line {
        /// The number of the line, from 1.
        number: u64,
        /// The problem.
        problem: String,
    },
    /// It ends before its trailer.
    #[error("the export is truncated: it ends after {lines} lines without a trailer. Use another copy")]
    CutOff {
        /// Number of lines read.
        lines: u64,
    },
    /// The trailer does not match the lines.
    #[error(
        "the export is damaged: its last line does not agree with what was read (it should be {expected}). Use \
         another copy"
    )]
    Damaged {
        /// The expected trailer.
        expected: String,
    },
    /// A line follows the trailer.
    #[error("the export has something behind its trailer; import one export at a time")]
    Behind,
}

/// Writes an export piece by piece.
#[derive(Debug)]
pub struct Exporter {
    user: Option<UserId>,
    created_at: String,
    digest: Sha256,
    counts: Counts,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Header,
    Records { kind: usize, after: Option<Vec<u8>> },
    Ended,
}

impl Exporter {
    /// Returns an exporter of everything, or of one user's records.
    pub fn new(user: Option<UserId>) -> Self {
        Self {
            user,
            created_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            digest: Sha256::new(),
            counts: Counts::new(),
            stage: Stage::Header,
        }
    }

    /// Returns the number of records of each kind written so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the next lines; `None` after the last. A piece may be empty.
    ///
    /// # Errors
    /// The store failed.
    pub async fn next(&mut self, stores: &dyn Stores) -> Result<Option<Vec<u8>>, ExportError> {
        let mut lines = Vec::new();
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ended => return Ok(None),
            Stage::Header => {
                lines = self.header(&stores.records().store_id().await?);
                self.stage = Stage::Records { kind: 0, after: None };
            }
            Stage::Records { kind, .. } if kind == KINDS.len() => return Ok(Some(self.trailer())),
            Stage::Records { kind, after } => {
                // Before the page: a deletion that is under way may go on, and end, while the page is read.
                let forgotten = stores.deleting_users().await?;
                let page = stores.records().page(kind, after.as_deref(), PAGE, PAGE_BYTES).await?;
                self.stage = match page.last() {
                    Some(last) => Stage::Records { kind, after: Some(last.key.clone()) },
                    None => Stage::Records { kind: kind + 1, after: None },
                };
                // The remaining records of a user who is being deleted are not exported. An item has the owner of its
                // conversation, which may be gone by now.
                let is_item = KINDS[kind].name == "item";
                for record in page.iter().filter(|record| is_whole(record)) {
                    let any = self.user.is_none() && forgotten.is_empty();
                    let owner = if any { None } else { stores.records().owner(record).await? };
                    let gone = owner.map_or(is_item && !any, |owner| forgotten.contains(&owner));
                    if !gone && (self.user.is_none() || owner == self.user) {
                        lines.extend(self.record(record));
                    }
                }
            }
        }
        Ok(Some(lines))
    }

    fn header(&mut self, store: &str) -> Vec<u8> {
        let header = Header {
            kind: "header".to_owned(),
            format: FORMAT,
            schema: SCHEMA,
            store: store.to_owned(),
            created_at: self.created_at.clone(),
            user: self.user,
        };
        self.line(serde_json::to_string(&header).expect("texts and numbers have a JSON form"))
    }

    fn record(&mut self, record: &Record) -> Vec<u8> {
        let name = KINDS[record.kind].name;
        *self.counts.entry(name.to_owned()).or_default() += 1;
        let value = String::from_utf8_lossy(&record.value);
        self.line(format!("{{\"kind\":\"{name}\",\"key\":\"{}\",\"value\":{value}}}", hex(&record.key)))
    }

    fn line(&mut self, mut line: String) -> Vec<u8> {
        line.push('\n');
        self.digest.update(&line);
        line.into_bytes()
    }

    fn trailer(&mut self) -> Vec<u8> {
        (trailer(&self.counts, &std::mem::take(&mut self.digest)) + "\n").into_bytes()
    }
}

/// Returns whether a record is intact. An export with a damaged record could not be imported; without it, it can.
fn is_whole(record: &Record) -> bool {
    let checked = record.check();
    if let Err(problem) = &checked {
        let record = record.key_text();
        tracing::error!(%record, %problem, "a record of the store is damaged and left out of the export");
    }
    checked.is_ok()
}

fn trailer(records: &Counts, digest: &Sha256) -> String {
    let sha256 = hex(&digest.clone().finalize());
    let trailer = Trailer { kind: "trailer", records, sha256: &sha256 };
    serde_json::to_string(&trailer).expect("texts and numbers have a JSON form")
}

/// Reads and verifies an export line by line.
#[derive(Debug, Default)]
pub struct Importer {
    digest: Sha256,
    counts: Counts,
    lines: u64,
    header: Option<Header>,
    ended: bool,
}

impl Importer {
    /// Takes a line without its line break. Returns a record, not yet verified by the trailer.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Record>, ImportError> {
        if self.ended {
            return Err(ImportError::Behind);
        }
        self.lines += 1;
        if self.header.is_none() {
            let header = read_header(line)?;
            self.take(line);
            self.header = Some(header);
            return Ok(None);
        }
        // The trailer is known in advance, to the last byte: any difference is damage.
        if line.starts_with(b"{\"kind\":\"trailer\"") {
            let expected = trailer(&self.counts, &self.digest);
            self.ended = expected.as_bytes() == line;
            return if self.ended { Ok(None) } else { Err(ImportError::Damaged { expected }) };
        }
        let record =
            self.record(line).map_err(|problem| ImportError::Line { number: self.lines, problem })?;
        self.take(line);
        Ok(Some(record))
    }

    fn take(&mut self, line: &[u8]) {
        self.digest.update(line);
        self.digest.update(b"\n");
    }

    fn record(&mut self, line: &[u8]) -> Result<Record, String> {
        let mut line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let kind = record_kind(&line.kind).ok_or_else(|| format!("the kind {:?} is unknown", line.kind))?;
        let key = unhex(&line.key).ok_or("its key is not hexadecimal")?;
        if !line.value.is_object() {
            return Err("its value is not an object".to_owned());
        }
        upgrade(&line.kind, self.header.as_ref().map_or(SCHEMA, |header| header.schema), &mut line.value);
        *self.counts.entry(line.kind).or_default() += 1;
        let value = serde_json::to_vec(&line.value).map_err(|error| error.to_string())?;
        Ok(Record { kind, key, value })
    }

    /// Returns the number of lines read.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Returns the id of the exported store; `None` before the header.
    pub fn store(&self) -> Option<&str> {
        self.header.as_ref().map(|header| header.store.as_str())
    }

    /// Returns the counts, once everything is verified.
    ///
    /// # Errors
    /// It is truncated.
    pub fn finish(self) -> Result<Counts, ImportError> {
        if self.ended { Ok(self.counts) } else { Err(ImportError::CutOff { lines: self.lines }) }
    }
}

fn read_header(line: &[u8]) -> Result<Header, ImportError> {
    let start = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
    let value: Value = serde_json::from_slice(line).map_err(|_| ImportError::NotAnExport(start.clone()))?;
    if value["kind"] != "header" {
        return Err(ImportError::NotAnExport(start));
    }
    // Before the other fields are read: a newer header may differ.
    for (what, known) in [("format", FORMAT), ("schema", SCHEMA)] {
        let found = value[what].as_u64().and_then(|found| u32::try_from(found).ok());
        let found = found.ok_or_else(|| ImportError::NotAnExport(start.clone()))?;
        if found > known {
            return Err(ImportError::Newer { what, found, known });
        }
    }
    serde_json::from_value(value).map_err(|error| ImportError::NotAnExport(error.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .bytes()
        .map(|digit| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        })
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let value = prop::collection::btree_map(
            ".*",
            prop_oneof![
                any::<u64>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                any::<bool>().prop_map(Value::from),
                ".*".prop_map(Value::from),
            ],
            0..4,
        );
        (0..KINDS.len(), prop::collection::vec(any::<u8>(), 0..40), value).prop_map(|(kind, key, value)| {
            let value = Value::Object(value.into_iter().collect());
            Record { kind, key, value: serde_json::to_vec(&value).unwrap() }
        })
    }

    fn written(records: &[Record]) -> Vec<u8> {
        let mut exporter = Exporter::new(None);
        let mut all = exporter.header("s");
        for record in records {
            all.extend(exporter.record(record));
        }
        all.extend(exporter.trailer());
        all
    }

    fn read(text: &[u8]) -> Result<(Vec<Record>, Counts), ImportError> {
        let mut importer = Importer::default();
        let mut records = Vec::new();
        for line in text.strip_suffix(b"\n").unwrap_or(text).split(|&byte| byte == b'\n') {
            records.extend(importer.line(line)?);
        }
        Ok((records, importer.finish()?))
    }

    proptest! {
        #[test]
        fn exports_round_trip(records in prop::collection::vec(record(), 0..12)) {
            let (read, counts) = read(&written(&records)).unwrap();
            prop_assert_eq!(counts.values().sum::<u64>(), records.len() as u64);
            prop_assert_eq!(read, records);
        }

        #[test]
        fn changed_bytes_are_detected(
            records in prop::collection::vec(record(), 0..4),
            place in any::<prop::sample::Index>(),
            change in 1..=255u8,
        ) {
            let mut text = written(&records);
            let place = place.index(text.len() - 1);
            text[place] ^= change;
            prop_assert!(read(&text).is_err());
        }

        #[test]
        fn truncation_is_detected(
            records in prop::collection::vec(record(), 0..4),
            place in any::<prop::sample::Index>(),
        ) {
            let text = written(&records);
            // Without its last line break the export is complete.
            prop_assert!(read(&text[..place.index(text.len() - 1)]).is_err());
        }

        #[test]
        fn hex_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn newer_versions_are_refused_by_name() {
        let line = |format, schema| {
            format!(
                "{{\"kind\":\"header\",\"format\":{format},\"schema\":{schema},\"store\":\"s\",\"created_at\":\"t\"}}"
            )
        };
        let refusal = |text: String| Importer::default().line(text.as_bytes()).unwrap_err();
        let newer = refusal(line(2, 1));
        assert_eq!(newer, ImportError::Newer { what: "format", found: 2, known: 1 });
        assert!(newer.to_string().contains("newer version"), "{newer}");
        assert!(matches!(refusal(line(1, 99)), ImportError::Newer { what: "schema", found: 99, .. }));
        assert!(matches!(refusal("{}".to_owned()), ImportError::NotAnExport(_)));
        assert!(matches!(refusal("PK\u{3}".to_owned()), ImportError::NotAnExport(_)));
    }

    #[test]
    fn lines_after_the_trailer_are_refused() {
        let twice = [written(&[]), written(&[])].concat();
        assert_eq!(read(&twice), Err(ImportError::Behind));
    }
}
