//! POST /messages: the request. Its content is checked by the engine, which says every fault at once.
use crate::json::{Bounded, Object, OrderedStrings};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use signpost_engine::messages::request::{AddressInput, AttachmentInput, MessageRequest};
use std::fmt;
use utoipa::ToSchema;

/// An address: `"Ann <ann@example.com>"`, `"ann@example.com"`, or its parts.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub(crate) enum Address {
    /// With or without display name (RFC 5322 3.4).
    Text(String),
    /// In parts.
    Parts(NamedAddress),
}

/// An address in parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedAddress {
    /// The bare address.
    email: String,
    /// Display name.
    name: Option<String>,
}

impl<'de> Deserialize<'de> for Address {
    /// By hand: serde's untagged enums lose the place of a fault.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AddressVisitor;
        impl<'de> Visitor<'de> for AddressVisitor {
            type Value = Address;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address: a string, or an object with `email` and `name`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Address, E> {
                Ok(Address::Text(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Address, A::Error> {
                NamedAddress::deserialize(MapAccessDeserializer::new(map)).map(Address::Parts)
            }
        }
        deserializer.deserialize_any(AddressVisitor)
    }
}

impl From<Address> for AddressInput {
    fn from(address: Address) -> Self {
        match address {
            Address::Text(text) => Self::Text(text),
            Address::Parts(NamedAddress { email, name }) => Self::Parts { email, name },
        }
    }
}

/// An attachment.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attachment {
    filename: Option<String>,
    /// Media type.
    #[schema(example = "application/pdf")]
    content_type: String,
    /// Base64 (RFC 4648 section 4).
    #[schema(format = Byte)]
    content: String,
    /// Makes it an inline part that `cid:` URLs in `html` refer to.
    content_id: Option<String>,
}

impl From<Attachment> for AttachmentInput {
    fn from(attachment: Attachment) -> Self {
        let Attachment { filename, content_type, content, content_id } = attachment;
        Self { filename, content_type, content, content_id }
    }
}

/// A list of a message. How many entries it may have is the engine's to say, below that.
type List<T> = Bounded<T, 1_000>;

/// A message to build and send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendMessage {
    from: Address,
    #[schema(value_type = Option<Vec<Address>>)]
    to: Option<List<Address>>,
    #[schema(value_type = Option<Vec<Address>>)]
    cc: Option<List<Address>>,
    /// Recipients that no other recipient sees.
    #[schema(value_type = Option<Vec<Address>>)]
    bcc: Option<List<Address>>,
    #[schema(value_type = Option<Vec<Address>>)]
    reply_to: Option<List<Address>>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    /// Further header fields. Fields that the service makes itself are refused.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<OrderedStrings>,
    #[schema(value_type = Option<Vec<Attachment>>)]
    attachments: Option<List<Object<Attachment>>>,
    /// URL for List-Unsubscribe with one click (RFC 8058).
    list_unsubscribe: Option<String>,
    #[schema(value_type = Option<Vec<String>>)]
    tags: Option<List<String>>,
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    metadata: Option<OrderedStrings>,
    /// Up to 30 days ahead.
    #[schema(format = DateTime)]
    send_at: Option<String>,
    /// Envelope sender; made by the service unless given.
    mail_from: Option<String>,
}

impl From<SendMessage> for MessageRequest {
    fn from(request: SendMessage) -> Self {
        let addresses =
            |list: Option<List<Address>>| list.unwrap_or_default().0.into_iter().map(AddressInput::from).collect();
        Self {
            from: request.from.into(),
            to: addresses(request.to),
            cc: addresses(request.cc),
            bcc: addresses(request.bcc),
            reply_to: addresses(request.reply_to),
            subject: request.subject.unwrap_or_default(),
            text: request.text,
            html: request.html,
            headers: request.headers.unwrap_or_default().0,
            attachments: request.attachments.unwrap_or_default().0.into_iter().map(|object| object.0.into()).collect(),
            list_unsubscribe: request.list_unsubscribe,
            tags: request.tags.unwrap_or_default().0,
            metadata: request.metadata.unwrap_or_default().0,
            send_at: request.send_at,
            mail_from: request.mail_from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    #[test]
    fn the_contracts_example_is_taken() {
        let body = br#"{"from":"Ann <ann@example.com>","to":["bob@example.net",{"email":"c@example.net","name":"C"}],"cc":[],"bcc":null,
            "reply_to":[],"subject":"s","text":"t","html":"<p>t","headers":{"X-B":"1","X-A":"2"},
            "attachments":[{"filename":"a.pdf","content_type":"application/pdf","content":"QUFB","content_id":"i"}],
            "list_unsubscribe":"https://example.com/u","tags":["welcome"],"metadata":{"user":"42"},"send_at":"2026-12-01T00:00:00Z","mail_from":null}"#;
        let request = MessageRequest::from(parse::<SendMessage>(body).unwrap());
        assert_eq!(request.from, AddressInput::Text("Ann <ann@example.com>".into()));
        assert_eq!(request.to[1], AddressInput::Parts { email: "c@example.net".into(), name: Some("C".into()) });
        assert_eq!(request.headers, [("X-B".into(), "1".into()), ("X-A".into(), "2".into())]);
        assert_eq!(request.attachments[0].content_id.as_deref(), Some("i"));
        assert_eq!(request.metadata, [("user".into(), "42".into())]);
        assert!(request.bcc.is_empty() && request.mail_from.is_none());
    }

    #[test]
    fn faults_have_their_pointer() {
        for (body, pointer) in [
            (r#"{"to":["b@example.net"]}"#, "/from"),
            (r#"{"from":5}"#, "/from"),
            (r#"{"from":null}"#, "/from"),
            (r#"{"from":["a@example.com"]}"#, "/from"),
            (r#"{"from":{"email":5}}"#, "/from/email"),
            (r#"{"from":{"name":"A"}}"#, "/from/email"),
            (r#"{"from":{"email":"a@example.com","nick":"A"}}"#, "/from/nick"),
            (r#"{"from":{"email":"a@example.com","email":"b@example.com"}}"#, "/from/email"),
            (r#"{"from":"a@example.com","to":"b@example.net"}"#, "/to"),
            (r#"{"from":"a@example.com","to":["b@example.net",7]}"#, "/to/1"),
            (r#"{"from":"a@example.com","to":[null]}"#, "/to/0"),
            (r#"{"from":"a@example.com","headers":{"X-A":["1"]}}"#, "/headers/X-A"),
            (r#"{"from":"a@example.com","headers":{"X-A":"1","X-A":"2"}}"#, "/headers/X-A"),
            (r#"{"from":"a@example.com","attachments":[{"content":"QUFB"}]}"#, "/attachments/0/content_type"),
            (r#"{"from":"a@example.com","attachments":[["a","text/plain","QUFB",null]]}"#, "/attachments/0"),
            (r#"{"from":"a@example.com","metadata":{"a":1}}"#, "/metadata/a"),
            (r#"{"from":"a@example.com","tags":[1]}"#, "/tags/0"),
            (r#"{"from":"a@example.com","From":"b@example.com"}"#, "/From"),
            (r#"{"from":"a@example.com","from":"b@example.com"}"#, "/from"),
        ] {
            let problem = parse::<SendMessage>(body.as_bytes()).unwrap_err();
            let json: serde_json::Value = serde_json::from_slice(&problem.render("r")).unwrap();
            assert_eq!(
                (problem.kind.status().as_u16(), json["errors"][0]["pointer"].as_str()),
                (422, Some(pointer)),
                "{body}"
            );
        }
    }
}
