//! The JSON dialect of Go's standard library, as the cfg files use it (§3, §4).
//!
//! Writing is byte-exact: fixed key order, no white space, Go's escapes. Reading is as lenient as Go: keys in any
//! case and order, the last of several equal keys wins, `null` leaves a scalar at its default, unknown keys and bytes after the object are ignored.
//! It is as strict as Go about the form of each value.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

use super::error::FormatError;

/// Texts by key, in the order Go writes maps (by bytes).
pub type TextMap = BTreeMap<String, String>;

/// Builds one object, keys in call order.
pub struct ObjectWriter {
    out: String,
}

impl ObjectWriter {
    pub fn new() -> Self {
        Self { out: "{".into() }
    }

    fn key(&mut self, key: &str) -> &mut String {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        push_string(&mut self.out, key);
        self.out.push(':');
        &mut self.out
    }

    /// A plain string.
    pub fn string(&mut self, key: &str, value: &str) {
        push_string(self.key(key), value);
    }

    /// A string that holds a JSON string: what Go's `,string` tag does to a field that is text already.
    pub fn quoted_string(&mut self, key: &str, value: &str) {
        let mut inner = String::with_capacity(value.len() + 2);
        push_string(&mut inner, value);
        self.string(key, &inner);
    }

    /// A string that holds a decimal integer.
    pub fn integer_text(&mut self, key: &str, value: u64) {
        self.string(key, &value.to_string());
    }

    /// An object of strings, or `null`.
    pub fn text_map(&mut self, key: &str, value: Option<&TextMap>) {
        let out = self.key(key);
        let Some(map) = value else {
            out.push_str("null");
            return;
        };
        let mut object = ObjectWriter::new();
        map.iter().for_each(|(key, value)| object.string(key, value));
        out.push_str(&object.into_text());
    }

    /// A value that is JSON already: numbers, booleans, fixed texts.
    pub fn raw(&mut self, key: &str, json: &str) {
        self.key(key).push_str(json);
    }

    /// The finished object.
    pub fn into_text(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

/// Escapes as Go's encoder does with its default of being safe inside HTML.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// A type read from an object, key by key.
pub trait Fields: Default {
    /// Takes the value of `key`, given in lower case. Unknown keys must be skipped with [`skip`].
    fn field<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads one object from the start of `bytes`; what follows it is ignored. Bytes that are not UTF-8 inside strings
/// become U+FFFD.
pub fn parse<T: Fields>(bytes: &[u8]) -> Result<T, FormatError> {
    let text = String::from_utf8_lossy(bytes);
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let Object(value) = Object::deserialize(&mut deserializer).map_err(|error| FormatError::Json(error.to_string()))?;
    Ok(value)
}

/// An object as an element of something else.
pub struct Object<T>(pub T);

impl<'de, T: Fields> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Fields> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut value = T::default();
        while let Some(mut key) = map.next_key::<String>()? {
            key.make_ascii_lowercase();
            value.field(&key, &mut map)?;
        }
        Ok(value)
    }
}

/// Skips the value of an unknown key.
pub fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<serde::de::IgnoredAny>().map(|_| ())
}

/// Takes a scalar in its own JSON form; `null` leaves `slot` as it is.
pub fn scalar<'de, T, A>(slot: &mut T, map: &mut A) -> Result<(), A::Error>
where
    T: DeserializeOwned,
    A: MapAccess<'de>,
{
    if let Some(value) = map.next_value::<Option<T>>()? {
        *slot = value;
    }
    Ok(())
}

/// Takes a string that holds a decimal integer. Negative numbers are refused: no field of the store has them.
pub fn integer_text<'de, A: MapAccess<'de>>(slot: &mut u64, map: &mut A) -> Result<(), A::Error> {
    let Some(text) = map.next_value::<Option<String>>()? else {
        return Ok(());
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = if digits { text.parse().ok() } else { None };
    *slot = value.ok_or_else(|| A::Error::custom(format_args!("{text:?} is not a size in digits")))?;
    Ok(())
}

/// Takes a string that holds a JSON string.
pub fn quoted_string<'de, A: MapAccess<'de>>(slot: &mut String, map: &mut A) -> Result<(), A::Error> {
    let Some(text) = map.next_value::<Option<String>>()? else {
        return Ok(());
    };
    let inner = if text.starts_with('"') && text.ends_with('"') { serde_json::from_str(&text).ok() } else { None };
    *slot = inner.ok_or_else(|| A::Error::custom(format_args!("{text:?} is not a quoted text")))?;
    Ok(())
}

/// Takes an object of strings; `null` is none, and a `null` text is empty.
pub fn text_map<'de, A: MapAccess<'de>>(slot: &mut Option<TextMap>, map: &mut A) -> Result<(), A::Error> {
    let found = map.next_value::<Option<BTreeMap<String, Option<String>>>>()?;
    *slot = found.map(|texts| texts.into_iter().map(|(key, text)| (key, text.unwrap_or_default())).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let mut out = String::new();
        push_string(&mut out, "a\"\\<&>\u{2028}\u{1}\n\u{8}é\u{7f}");
        assert_eq!(out, "\"a\\\"\\\\\\u003c\\u0026\\u003e\\u2028\\u0001\\n\\bé\u{7f}\"");
    }

    #[test]
    fn a_quoted_string_escapes_once_inside_and_once_outside() {
        let mut object = ObjectWriter::new();
        object.quoted_string("A", "<\"");
        object.quoted_string("B", "");
        assert_eq!(object.into_text(), r#"{"A":"\"\\u003c\\\"\"","B":"\"\""}"#);
    }
}
