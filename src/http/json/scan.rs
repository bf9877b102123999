//! The first pass: checks everything without storing it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A field of the API that this server does not support (yet).
#[derive(Debug)]
pub struct Unsupported {
    /// Its name.
    pub field: &'static str,
    /// Values that request nothing beyond the normal behaviour of this server; null is always one.
    pub harmless: &'static [ValueShape],
    /// The handling of other values.
    pub other: Other,
}

/// The handling of a field that has no effect on this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// The request is refused.
    Refused,
    /// The field is ignored like an unknown one, because the answer is right without it.
    Ignored,
    /// The request is refused, because the field has another name in this API, which the text says.
    Misplaced(&'static str),
}

impl Unsupported {
    /// A field that is refused.
    pub const fn new(field: &'static str, harmless: &'static [ValueShape]) -> Self {
        Self { field, harmless, other: Other::Refused }
    }

    /// A field that is ignored.
    pub const fn ignored(field: &'static str, harmless: &'static [ValueShape]) -> Self {
        Self { field, harmless, other: Other::Ignored }
    }

    /// A field of a sibling API; `instead` completes "use …".
    pub const fn misplaced(field: &'static str, instead: &'static str) -> Self {
        Self { field, harmless: &[], other: Other::Misplaced(instead) }
    }
}

/// The shape of a value, as far as needed to recognise a harmless one.
#[derive(Debug, PartialEq)]
pub enum ValueShape {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Any number
    Number(f64),
    /// Any text
    Text(String),
    /// A text, in a table of harmless values.
    Word(&'static str),
    /// `[]`
    EmptyList,
    /// `["…"]`
    ListOf(&'static str),
    /// `{}`
    EmptyObject,
    /// `{"type": "…"}`
    ObjectOfType(&'static str),
    /// Any other list; its only element if that is a text.
    List(Option<String>),
    /// Any other object; its `type` if that is a text and its only member.
    Object(Option<String>),
}

impl ValueShape {
    pub(super) fn is(&self, harmless: &Self) -> bool {
        match (self, harmless) {
            (Self::Text(text), Self::Word(word)) => text == word,
            (Self::List(Some(text)), Self::ListOf(word)) => text == word,
            (Self::Object(Some(text)), Self::ObjectOfType(word)) => text == word,
            (given, harmless) => given == harmless,
        }
    }
}

/// Scans the top level of the body; everything below is only checked.
pub(super) struct BodyScan(pub(super) &'static [Unsupported]);

impl<'de> Visitor<'de> for BodyScan {
    type Value = Vec<(&'static Unsupported, ValueShape)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut given = Vec::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.0.iter().find(|field| field.field == key) {
                Some(field) => given.push((field, map.next_value()?)),
                None => {
                    map.next_value::<Checked>()?;
                }
            }
        }
        Ok(given)
    }
}

/// Any value, fully checked and discarded. `IgnoredAny` would accept bad escapes, numbers out of range and any depth of
/// nesting.
#[derive(Debug, Default, PartialEq)]
pub struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
        while seq.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        while map.next_key::<Checked>()?.is_some() {
            map.next_value::<Checked>()?;
        }
        Ok(Checked)
    }
}

impl<'de> Deserialize<'de> for ValueShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = ValueShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<ValueShape, E> {
        Ok(ValueShape::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<ValueShape, E> {
        Ok(ValueShape::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<ValueShape, E> {
        Ok(ValueShape::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<ValueShape, E> {
        Ok(ValueShape::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<ValueShape, E> {
        Ok(ValueShape::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<ValueShape, E> {
        Ok(ValueShape::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ValueShape, A::Error> {
        let Some(first) = seq.next_element_seed(TextOrAnything)? else { return Ok(ValueShape::EmptyList) };
        let mut alone = true;
        while seq.next_element::<Checked>()?.is_some() {
            alone = false;
        }
        Ok(ValueShape::List(first.filter(|_| alone)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueShape, A::Error> {
        let Some(key) = map.next_key::<String>()? else { return Ok(ValueShape::EmptyObject) };
        let first = map.next_value_seed(TextOrAnything)?;
        let mut alone = true;
        while map.next_key::<Checked>()?.is_some() {
            map.next_value::<Checked>()?;
            alone = false;
        }
        Ok(ValueShape::Object(first.filter(|_| alone && key == "type")))
    }
}

/// Deserializes a text, or `None` for any other value, which is checked.
struct TextOrAnything;

impl<'de> DeserializeSeed<'de> for TextOrAnything {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        Ok(match ValueShape::deserialize(deserializer)? {
            ValueShape::Text(text) => Some(text),
            _ => None,
        })
    }
}
