//! One JSON text, kept byte for byte from the caller to the disk and back.
//!
//! The text is checked once, when it comes in, and never parsed into a tree: numbers, spaces,
//! escapes and duplicate keys stay as they were. The check uses no stack, so hostile nesting is
//! only as expensive as it is long.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// The most characters of the original that a truncation marker shows.
const PREVIEW_CHARS_MAX: usize = 200;

/// One JSON text, kept byte for byte. The default is the empty object.
///
/// In JSON it stands as itself, with raw line breaks between its tokens written as spaces so that
/// an exported entry stays one line; in other formats it is a byte string. `Debug` shows the size
/// and never the text.
///
/// # Example
///
/// ```
/// let json = deadletter::Json::object(r#"{"price": 1.50}"#)?;
/// assert_eq!(json.as_str(), r#"{"price": 1.50}"#);
/// # Ok::<(), deadletter::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// Takes any JSON value.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the text is not exactly one JSON value. The message says where it
    /// stops being one and does not repeat the text.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if let Err(cause) = serde_json::from_str::<&RawValue>(&text) {
            return Err(Error::invalid(
                "json",
                format_args!("{} bytes of something else ({cause})", text.len()),
                "one valid JSON value",
            ));
        }
        Ok(Self(text.into_boxed_str()))
    }

    /// Takes a JSON object.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the text is not valid JSON, or is another kind of value.
    pub fn object(text: impl Into<String>) -> Result<Self> {
        let json = Self::parse(text)?;
        json.check_object("json")?;
        Ok(json)
    }

    /// The empty object, `{}`.
    pub fn empty() -> Self {
        Self("{}".into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The size of the text in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a JSON text is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the value is an object.
    pub fn is_object(&self) -> bool {
        self.0.trim_start().starts_with('{')
    }

    /// Whether this is what stands for a field that was over its limit, so that the original is
    /// gone.
    pub fn is_truncated_marker(&self) -> bool {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Marker {
            #[serde(rename = "_truncated")]
            truncated: bool,
            #[serde(rename = "original_size")]
            _original_size: u64,
            #[serde(rename = "preview")]
            _preview: IgnoredAny,
        }
        // A derived struct may also be read from an array.
        self.is_object()
            && serde_json::from_str::<Marker>(&self.0).is_ok_and(|marker| marker.truncated)
    }

    /// The marker that stands for this text where it is over a limit. The preview is as long as
    /// the limit allows, so that a marker is not over the limit in its turn.
    pub(crate) fn truncated_marker(&self, bytes_max: u64) -> Self {
        let head = format!(r#"{{"_truncated":true,"original_size":{},"preview":""#, self.len());
        let tail = "\"}";
        let room = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let mut marker = head;
        for character in self.0.chars().take(PREVIEW_CHARS_MAX) {
            let before = marker.len();
            push_escaped(&mut marker, character);
            if marker.len().saturating_add(tail.len()) > room {
                marker.truncate(before);
                break;
            }
        }
        marker.push_str(tail);
        Self(marker.into_boxed_str())
    }

    /// Refuses anything but an object, in the name of the field it was given for.
    pub(super) fn check_object(&self, field: &str) -> Result<()> {
        if self.is_object() {
            return Ok(());
        }
        Err(Error::invalid(field, "another kind of JSON value", "a JSON object"))
    }

    /// Takes a text that was made from a valid one in a way that keeps it valid.
    pub(super) fn trusted(text: String) -> Self {
        Self(text.into_boxed_str())
    }
}

/// Writes one character of a JSON text as part of a JSON string. Such a text holds no control
/// characters but white space.
fn push_escaped(text: &mut String, character: char) {
    match character {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        other => text.push(other),
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.len())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(self.0.as_bytes());
        }
        // A raw line break is white space here: inside a JSON string it would be an escape.
        let line = if self.0.contains(['\n', '\r']) {
            Cow::Owned(self.0.replace(['\n', '\r'], " "))
        } else {
            Cow::Borrowed(&*self.0)
        };
        let raw: &RawValue = serde_json::from_str(&line).map_err(S::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            return Ok(Self(raw.into()));
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

/// Reads the byte string of a binary format. A checksum guards it there, so that it is not
/// checked again as JSON.
struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a JSON text")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Json, E> {
        std::str::from_utf8(bytes).map(|text| Json(text.into())).map_err(E::custom)
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Json, E> {
        String::from_utf8(bytes).map(Json::trusted).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_kept_byte_for_byte_or_refused() {
        for text in ["{}", " {\"a\" : 1.0e2,\"a\":2}\n", "null", "\"\\ud800\"", "-0.0", "[1, 2]"] {
            assert_eq!(Json::parse(text).unwrap().as_str(), text);
        }
        for text in ["", " ", "{", "{} {}", "{'a':1}", "nul", "01", "[1,]", "\"\n\""] {
            assert!(Json::parse(text).is_err(), "{text:?} passed");
        }
        assert!(Json::object(" {}").is_ok());
        assert!(Json::object("[{}]").is_err());
        assert_eq!(Json::default().as_str(), "{}");
        assert_eq!(format!("{:?}", Json::parse("\"secret\"").unwrap()), "Json(8 bytes)");
    }

    #[test]
    fn an_error_does_not_repeat_the_text() {
        let message = Json::parse("{\"password\": hunter2}").unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn deep_nesting_does_not_use_the_stack() {
        let depth = 1_000_000;
        let text = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let json = Json::object(text.clone()).unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
        assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), json);
        assert!(Json::parse("[".repeat(depth)).is_err());
        assert!(!json.is_truncated_marker());
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(Json::object(objects).is_ok());
    }

    #[test]
    fn binary_is_a_length_and_the_bytes() {
        let json = Json::parse(" [1]").unwrap();
        let bytes = bincode::serialize(&json).unwrap();
        assert_eq!(bytes, b"\x04\0\0\0\0\0\0\0 [1]");
        assert_eq!(bincode::deserialize::<Json>(&bytes).unwrap(), json);
        assert_eq!(bincode::deserialize_from::<_, Json>(&*bytes).unwrap(), json);
        assert!(bincode::deserialize::<Json>(b"\x01\0\0\0\0\0\0\0\xff").is_err());
        assert!(bincode::deserialize::<Json>(b"\xff\0\0\0\0\0\0\0{}").is_err());
    }

    #[test]
    fn a_line_break_between_tokens_becomes_a_space() {
        let json = Json::parse("{\r\n\"a\": \"x\\ny\"\n}").unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), "{  \"a\": \"x\\ny\" }");
    }

    #[test]
    fn markers_are_known_by_their_shape() {
        let known = "{\"_truncated\": true, \"original_size\": 5, \"preview\": \"{\"}";
        assert!(Json::parse(known).unwrap().is_truncated_marker());
        for text in [
            "{}",
            "{\"_truncated\":true}",
            "{\"_truncated\":false,\"original_size\":5,\"preview\":\"\"}",
            "{\"_truncated\":true,\"original_size\":5,\"preview\":\"\",\"x\":1}",
            "[true,5,\"\"]",
        ] {
            assert!(!Json::parse(text).unwrap().is_truncated_marker(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_marker_is_valid_fits_and_shows_the_beginning(
            text in "\\PC{0,400}", bytes_max in 256_u64..2000
        ) {
            let json = Json::parse(serde_json::to_string(&text).unwrap()).unwrap();
            let marker = json.truncated_marker(bytes_max);
            prop_assert!(marker.len() as u64 <= bytes_max);
            prop_assert!(marker.is_truncated_marker());
            let value: serde_json::Value = serde_json::from_str(marker.as_str()).unwrap();
            let preview = value["preview"].as_str().unwrap();
            prop_assert!(json.as_str().starts_with(preview));
            prop_assert!(preview.chars().count() <= 200);
            prop_assert_eq!(value["original_size"].as_u64().unwrap(), json.len() as u64);
        }
    }
}
