//! Readers for single fields that take what the peer's own reader takes: numbers and booleans in
//! quotes, `4.0` for a whole number, numbers where text is wanted, and null for "absent".
//! Use them with `#[serde(deserialize_with = "lenient::integer")]` beside `#[serde(default)]`.

use serde::de::{Deserializer, Unexpected};
use serde::{Deserialize, de};
use serde_json::Value;

/// A whole number; null is 0.
pub fn integer<'de, D: Deserializer<'de>>(reader: D) -> Result<i64, D::Error> {
    Ok(optional_integer(reader)?.unwrap_or_default())
}

/// A whole number; null is none.
pub fn optional_integer<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<i64>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(None),
        Value::Number(number) => whole(&number.to_string()).map(Some),
        Value::String(text) => whole(&text).map(Some),
        other => Err(wrong(&other, "a whole number")),
    }
}

/// A truth value; null is false.
pub fn boolean<'de, D: Deserializer<'de>>(reader: D) -> Result<bool, D::Error> {
    Ok(optional_boolean(reader)?.unwrap_or_default())
}

/// A truth value; null is none.
pub fn optional_boolean<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(value)),
        Value::String(text) => Ok(Some(text.eq_ignore_ascii_case("true"))),
        other => Err(wrong(&other, "true or false")),
    }
}

/// Text, or a number or truth value taken as text; null is none.
pub fn text<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(value) => Ok(Some(value.to_string())),
        other => Err(wrong(&other, "text")),
    }
}

fn whole<E: de::Error>(text: &str) -> Result<i64, E> {
    let text = text.trim();
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    // 2^53: up to there a floating-point number holds every whole number exactly.
    match text.parse::<f64>() {
        Ok(number) if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 => Ok(number as i64),
        _ => Err(E::invalid_value(Unexpected::Str(text), &"a whole number")),
    }
}

fn wrong<E: de::Error>(value: &Value, wanted: &'static str) -> E {
    let found = match value {
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("a number"),
        Value::Null | Value::String(_) => Unexpected::Other("text"),
    };
    E::invalid_type(found, &wanted)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        #[serde(deserialize_with = "super::integer")]
        number: i64,
        #[serde(deserialize_with = "super::boolean")]
        flag: bool,
        #[serde(deserialize_with = "super::text")]
        text: Option<String>,
    }

    #[test]
    fn takes_what_the_peer_takes() {
        for json in [
            r#"{"number":4,"flag":true,"text":"7"}"#,
            r#"{"number":"4","flag":"true","text":7}"#,
            r#"{"number":4.0,"flag":"TRUE","text":"7","unknown":1}"#,
        ] {
            let read: Sample = serde_json::from_str(json).unwrap();
            assert_eq!(read, Sample { number: 4, flag: true, text: Some("7".to_owned()) }, "{json}");
        }
        let empty: Sample = serde_json::from_str(r#"{"number":null,"flag":null,"text":null}"#).unwrap();
        assert_eq!(empty, Sample::default());
        let large: Sample = serde_json::from_str(r#"{"number":2250110963824984073}"#).unwrap();
        assert_eq!(large.number, 2_250_110_963_824_984_073);
    }

    #[test]
    fn refuses_the_rest() {
        for json in [
            r#"{"number":4.5}"#,
            r#"{"number":"x"}"#,
            r#"{"number":1e300}"#,
            r#"{"flag":1}"#,
            r#"{"text":[]}"#,
        ] {
            assert!(serde_json::from_str::<Sample>(json).is_err(), "{json}");
        }
    }
}
