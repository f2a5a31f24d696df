//! JSON in and out. In: malformed is 400, well-formed but wrong is 422 with the JSON pointer of the fault.
use crate::problem::{Fault, Problem, ProblemType};
use serde::de::{
    DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_path_to_error::{Path, Segment};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Octets of an answer.
#[expect(
    clippy::expect_used,
    reason = "serde_json fails only on maps whose keys are no strings; no answer type has one"
)]
pub(crate) fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("an answer is serializable")
}

/// Parses a request body that must be one JSON object (RFC 8259).
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = body.iter().take(error.valid_up_to()).filter(|o| **o == b'\n').count() + 1;
        malformed(&format!("line {line}: invalid UTF-8 after octet {}", error.valid_up_to()))
    })?;
    // First the syntax of the whole body, so that malformed JSON is a 400 wherever the fault stands.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| malformed(&error))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer).map(|object| object.0).map_err(|error| {
        if error.inner().is_data() {
            Problem::invalid(vec![fault(error.path(), &error.inner().to_string())])
        } else {
            malformed(error.inner())
        }
    })
}

fn malformed(cause: &dyn fmt::Display) -> Problem {
    Problem::new(
        ProblemType::MalformedJson,
        format!("The body is not well-formed JSON: {}.", shorten(&cause.to_string())),
    )
}

/// From serde's text and path to a fault. serde tells a missing or duplicate field only in the text, with the path of the object around it.
fn fault(path: &Path, text: &str) -> Fault {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _position)| text);
    let mut pointer = pointer(path);
    for prefix in ["missing field `", "duplicate field `"] {
        let name = text.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('`')).map(|(name, _)| name);
        if let Some(name) = name {
            let token = token(name);
            if !pointer.ends_with(&token) {
                pointer.push_str(&token);
            }
        }
    }
    // A pointer is never cut; one that only echoes a huge name points to the object around it.
    while pointer.len() > LONGEST_ECHO {
        let parent = pointer.rfind('/').unwrap_or(0);
        pointer.truncate(parent);
    }
    Fault::at(pointer, shorten(&without_long_text(text)))
}

/// Where serde repeats a long string in place of what it expected, without it: it may be a private key that was put at the wrong place.
fn without_long_text(text: &str) -> Cow<'_, str> {
    let repeated = text.strip_prefix("invalid type: string \"").and_then(|rest| rest.rsplit_once("\", expected "));
    match repeated {
        Some((value, expected)) if value.len() > LONGEST_VALUE => {
            format!("invalid type: a string, expected {expected}").into()
        }
        Some(_) | None => text.into(),
    }
}

/// Longest string of a request that an answer repeats, in octets.
const LONGEST_VALUE: usize = 40;

/// Longest piece of a request that an answer repeats, in octets.
const LONGEST_ECHO: usize = 300;

fn shorten(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= LONGEST_ECHO) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// RFC 6901 section 3: `~` is `~0`, `/` is `~1`.
fn token(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn pointer(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => token(key),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// A value that must be a JSON object: serde's derived structs would take an array too, by position.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A list of at most `MAX` entries. A longer one is an error before it is held in memory: small entries take many times their JSON.
#[derive(Debug)]
pub(crate) struct Bounded<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
            type Value = Bounded<T, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    if entries.len() == MAX {
                        return Err(A::Error::custom(format_args!("more than {MAX} entries")));
                    }
                    entries.push(entry);
                }
                Ok(Bounded(entries))
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// Entries of an object of strings, at most.
const MAX_STRINGS: usize = 1_000;

/// An object of strings in the order of the request. A name that stands twice is an error: which one counts would be a guess.
#[derive(Debug, Default)]
pub(crate) struct OrderedStrings(pub(crate) Vec<(String, String)>);

impl<'de> Deserialize<'de> for OrderedStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;
        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = OrderedStrings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object whose values are strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    if pairs.len() == MAX_STRINGS {
                        return Err(A::Error::custom(format_args!("more than {MAX_STRINGS} entries")));
                    }
                    pairs.push((name, value));
                }
                Ok(OrderedStrings(pairs))
            }
        }
        deserializer.deserialize_map(StringsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Sample {
        name: String,
        count: Option<u8>,
        #[serde(default)]
        map: OrderedStrings,
        #[serde(default)]
        list: Bounded<Object<Inner>, 3>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        a: String,
    }

    /// (status, pointer of the first fault or empty, part of the detail)
    fn answer(body: &[u8]) -> (u16, Option<String>, String) {
        let problem = parse::<Sample>(body).unwrap_err();
        let json: serde_json::Value = serde_json::from_slice(&problem.render("r")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        (problem.kind.status().as_u16(), text(&json["errors"][0]["pointer"]), text(&json["detail"]).unwrap())
    }

    #[test]
    fn a_long_string_at_the_wrong_place_is_not_repeated() {
        for body in [
            r#""-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v""#,
            r#"{"name": "n", "count": "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\", expected"}"#,
        ] {
            let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind.status().as_u16(), 422);
            let text = String::from_utf8(problem.render("r")).unwrap();
            assert!(text.contains("a string, expected") && !text.contains("MC4C"), "{text}");
        }
    }

    #[test]
    fn well_formed_but_wrong_is_422_with_the_pointer() {
        let table: &[(&str, &str, &str)] = &[
            (r#"{"name":5}"#, "/name", "expected a string"),
            (r#"{"name":null}"#, "/name", "expected a string"),
            (r"{}", "/name", "missing field"),
            (r#"{"name":"a","nmae":1}"#, "/nmae", "unknown field"),
            (r#"{"name":"a","a/b~c":1}"#, "/a~1b~0c", "unknown field"),
            (r#"{"name":"a","name":"b"}"#, "/name", "duplicate field"),
            (r#"{"name":"a","count":300}"#, "/count", "300"),
            (r#"{"name":"a","count":-1}"#, "/count", "-1"),
            (r#"{"name":"a","count":1.5}"#, "/count", "1.5"),
            (r#"{"name":"a","map":{"x":1}}"#, "/map/x", "expected a string"),
            (r#"{"name":"a","map":{"x":"1","x":"2"}}"#, "/map/x", "duplicate field"),
            (r#"{"name":"a","map":[]}"#, "/map", "expected an object"),
            (r#"{"name":"a","list":[{"a":"1"},{}]}"#, "/list/1/a", "missing field"),
            (r#"{"name":"a","list":[{"a":"1"},{"a":"2","b":0}]}"#, "/list/1/b", "unknown field"),
            (r#"{"name":"a","list":[["1"]]}"#, "/list/0", "expected an object"),
            (r#"{"name":"a","list":[{"a":"1","a":"2"}]}"#, "/list/0/a", "duplicate field"),
            (r#"{"name":"a","list":[{"a":""},{"a":""},{"a":""},{"a":""}]}"#, "/list", "more than 3 entries"),
            (r#"{"name":"a","list":{}}"#, "/list", "expected a list"),
            (r#"["a"]"#, "", "expected an object"),
            (r#""a""#, "", "expected an object"),
            ("null", "", "expected an object"),
            ("17", "", "expected an object"),
        ];
        for (body, pointer, part) in table {
            let (status, at, detail) = answer(body.as_bytes());
            assert_eq!((status, at.as_deref()), (422, Some(*pointer)), "{body}: {detail}");
            assert!(detail.contains(part), "{body}: {detail}");
            assert!(!detail.contains("at line"), "{body}: {detail}");
        }
    }

    #[test]
    fn an_object_of_strings_has_at_most_a_thousand_entries() {
        let body = |entries: usize| {
            let map: Vec<String> = (0..entries).map(|n| format!("\"{n}\":\"\"")).collect();
            format!("{{\"name\":\"a\",\"map\":{{{}}}}}", map.join(","))
        };
        assert_eq!(parse::<Sample>(body(1_000).as_bytes()).unwrap().map.0.len(), 1_000);
        let (status, at, detail) = answer(body(1_001).as_bytes());
        assert_eq!((status, at.as_deref()), (422, Some("/map")), "{detail}");
    }

    #[test]
    fn malformed_json_is_400_wherever_the_fault_stands() {
        let deep_in_unknown = format!("{{\"name\":\"a\",\"x\":{}", "[".repeat(100_000));
        let table: &[&[u8]] = &[
            b"",
            b"{",
            b"{\"name\":\"a\"",
            b"{\"name\":\"a\"} x",
            b"{\"unknown\":1,",
            b"{\"name\":5 \"count\":1}",
            b"{\"name\":\"\\ud800\"}",
            b"{\"name\":\"\\x\"}",
            b"{\"name\":\"a\nb\"}",
            b"{\"name\":\"\xff\"}",
            b"{\"name\":\"\xed\xa0\x80\"}",
            b"\xef\xbb\xbf{\"name\":\"a\"}",
            b"{'name':'a'}",
            b"{\"name\":NaN}",
            b"{\"name\":\"a\",}",
            deep_in_unknown.as_bytes(),
        ];
        for body in table {
            let (status, at, detail) = answer(body);
            let shown = String::from_utf8_lossy(body.get(..body.len().min(60)).unwrap()).into_owned();
            assert_eq!((status, at), (400, None), "{shown}: {detail}");
            assert!(detail.contains("line"), "{shown}: {detail}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let body = format!("{{\"name\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(answer(body.as_bytes()).0, 422);
        let body = format!("{{\"map\":{{\"a\":{}1{}}}}}", "{\"a\":".repeat(200_000), "}".repeat(200_000));
        assert_eq!(answer(body.as_bytes()).0, 422);
    }

    #[test]
    fn an_answer_never_echoes_a_huge_name_or_value() {
        let huge = "ä".repeat(1_000_000);
        for body in [
            format!("{{\"{huge}\":1}}"),
            format!("{{\"name\":\"a\",\"map\":{{\"{huge}\":1}}}}"),
            format!("{{\"name\":\"a\",\"count\":\"{huge}\"}}"),
        ] {
            let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert!(problem.render("r").len() < 2_000);
        }
    }

    #[test]
    fn an_object_of_strings_keeps_its_order() {
        let sample = parse::<Sample>(br#"{"name":"a","count":null,"map":{"z":"1","a":"2","m":""}}"#).unwrap();
        let names: Vec<_> = sample.map.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "a", "m"]);
    }
}
