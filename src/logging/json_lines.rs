//! Log events as lines of JSON.
//!
//! The formatter of `tracing-subscriber` keeps the fields of a span as text that it parses again for every event and
//! every field that is added; each request has a span and an event. This one keeps them as members of an object and
//! copies them.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The format: one object a line, with the event's fields, its target and the innermost span.
#[derive(Clone, Copy, Debug)]
pub struct JsonLines;

impl<'w> FormatFields<'w> for JsonLines {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut members = Members::new(&mut writer, true);
        fields.record(&mut members);
        members.result
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        let is_first = current.fields.is_empty();
        let mut writer = current.as_writer();
        let mut members = Members::new(&mut writer, is_first);
        fields.record(&mut members);
        members.result
    }
}

impl<S> FormatEvent<S, Self> for JsonLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Self>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\"", event.metadata().level())?;
        let mut members = Members::new(&mut writer, false);
        event.record(&mut members);
        members.result?;
        let logged = members.target.take();
        writer.write_str(",\"target\":")?;
        write_text(&mut writer, logged.as_deref().unwrap_or_else(|| event.metadata().target()))?;
        if let Some(span) = context.lookup_current() {
            writer.write_str(",\"span\":{")?;
            if let Some(fields) = span.extensions().get::<FormattedFields<Self>>()
                && !fields.fields.is_empty()
            {
                writer.write_str(&fields.fields)?;
                writer.write_char(',')?;
            }
            writer.write_str("\"name\":")?;
            write_text(&mut writer, span.name())?;
            writer.write_char('}')?;
        }
        writer.write_str("}\n")
    }
}

/// Writes fields as members of an object.
struct Members<'a, 'w> {
    writer: &'a mut Writer<'w>,
    is_first: bool,
    /// The target, if the event came through the `log` crate.
    target: Option<String>,
    result: fmt::Result,
}

impl<'a, 'w> Members<'a, 'w> {
    fn new(writer: &'a mut Writer<'w>, is_first: bool) -> Self {
        Self { writer, is_first, target: None, result: Ok(()) }
    }

    fn member(&mut self, field: &Field, write: impl FnOnce(&mut Writer<'w>) -> fmt::Result) {
        // The parts of a record of the `log` crate.
        if self.result.is_err() || field.name().starts_with("log.") {
            return;
        }
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        self.result = self
            .writer
            .write_str(comma)
            .and_then(|()| write_text(self.writer, field.name().trim_start_matches("r#")))
            .and_then(|()| self.writer.write_char(':'))
            .and_then(|()| write(self.writer));
    }
}

impl Visit for Members<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |writer| match value.is_finite() {
            true => write!(writer, "{value:?}"),
            false => writer.write_str("null"),
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        self.member(field, |writer| write_text(writer, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, |writer| {
            writer.write_char('"')?;
            write!(Escaped(writer), "{value:?}")?;
            writer.write_char('"')
        });
    }
}

fn write_text(writer: &mut impl Write, text: &str) -> fmt::Result {
    writer.write_char('"')?;
    Escaped(writer).write_str(text)?;
    writer.write_char('"')
}

/// Writes the contents of a JSON string.
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut written = 0;
        // Escaped characters have one byte each, so these indexes are character boundaries.
        for (at, byte) in text.bytes().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.0.write_str(&text[written..at])?;
            written = at + 1;
            match byte {
                b'"' | b'\\' => write!(self.0, "\\{}", char::from(byte))?,
                b'\n' => self.0.write_str("\\n")?,
                b'\r' => self.0.write_str("\\r")?,
                b'\t' => self.0.write_str("\\t")?,
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
        }
        self.0.write_str(&text[written..])
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(events: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonLines)
            .event_format(JsonLines)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    #[test]
    fn an_event_has_its_fields_and_its_span() {
        let lines = logged(|| {
            let span = tracing::info_span!("request", method = %"GET", path = "/a\"b", caller = tracing::field::Empty);
            tracing::warn!(number = -1, share = 0.5, broken = f64::NAN, is_new = true, "a\nb");
            let _entered = span.enter();
            tracing::info!(status = 200_u64, "answered");
            span.record("caller", "user_1");
            tracing::info!(target: "elsewhere", error = ?Some("x"), "again");
            let inner = tracing::info_span!("inner");
            let _inside = inner.enter();
            inner.in_scope(|| tracing::info!("inside"));
        });
        let expected = [
            json!({"level": "WARN", "message": "a\nb", "number": -1, "share": 0.5, "broken": null, "is_new": true,
                "target": module_path!()}),
            json!({"level": "INFO", "message": "answered", "status": 200, "target": module_path!(),
                "span": {"method": "GET", "path": "/a\"b", "name": "request"}}),
            json!({"level": "INFO", "message": "again", "error": "Some(\"x\")", "target": "elsewhere",
                "span": {"method": "GET", "path": "/a\"b", "caller": "user_1", "name": "request"}}),
            json!({"level": "INFO", "message": "inside", "target": module_path!(), "span": {"name": "inner"}}),
        ];
        assert_eq!(lines.len(), expected.len());
        for (mut line, expected) in lines.into_iter().zip(expected) {
            let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
            assert_eq!(line, expected);
        }
    }

    proptest! {
        #[test]
        fn every_text_is_read_back(text in any::<String>()) {
            let mut written = String::new();
            write_text(&mut written, &text).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}
