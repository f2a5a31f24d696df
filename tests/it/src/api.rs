//! The HTTP API as a caller sees it.
use crate::{DEADLINE, wait_for};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// One answer, kept so that the end of the test can search it for secrets.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Method and path.
    pub request: String,
    /// Status line is not kept; fields and body are.
    pub answer: Vec<u8>,
}

/// A caller. Cheap to clone; clones may call from several threads at once.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    token: Option<String>,
    headers: Vec<(String, String)>,
    runtime: Arc<tokio::runtime::Runtime>,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Method and path, for people.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body octets.
    pub body: Bytes,
}

impl Api {
    /// A caller without credentials.
    pub fn new(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { address, token: None, headers: Vec::new(), runtime: Arc::new(runtime), exchanges: Arc::default() }
    }

    /// The same with an API key.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same with one more header field in every request.
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    /// Everything that was answered so far, to any clone.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().unwrap().clone()
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None, Vec::new())
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None, Vec::new())
    }

    /// POST without a body.
    pub fn post_empty(&self, path: &str) -> Answer {
        self.call("POST", path, None, Vec::new())
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some("application/json"), body.to_string().into_bytes())
    }

    /// POST of a message.
    pub fn post_message(&self, path: &str, message: &[u8]) -> Answer {
        self.call("POST", path, Some("message/rfc822"), message.to_vec())
    }

    /// Any request.
    pub fn call(&self, method: &str, path: &str, content_type: Option<&str>, body: Vec<u8>) -> Answer {
        self.try_call(method, path, content_type, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Any request; an error where the server did not answer.
    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let mut request = hyper::Request::builder().method(method).uri(path).header("Host", self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, async {
                let stream = tokio::net::TcpStream::connect(self.address).await?;
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                let driver = tokio::spawn(connection);
                let (parts, body) = sender.send_request(request).await?.into_parts();
                let body = body.collect().await?.to_bytes();
                driver.abort();
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>((parts, body))
            })
            .await
        });
        let (parts, body) = answer.map_err(|_| "no answer within the deadline")??;
        let request = format!("{method} {path}");
        let mut kept = format!("{:?}\n", parts.headers).into_bytes();
        kept.extend_from_slice(&body);
        self.exchanges.lock().unwrap().push(Exchange { request: request.clone(), answer: kept });
        Ok(Answer { request, status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// Asks for a message until `is_it` agrees; gives it.
    pub fn message_until(&self, id: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(&format!("message {id} is {what}"), DEADLINE, || {
                last = self.get(&format!("/v1/messages/{id}")).expect(200).json();
                is_it(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("message {id} is not {what}; it is {last:#}"))
    }

    /// Asks for a message until it has that status; gives it.
    pub fn message_with_status(&self, id: &str, status: &str) -> Value {
        self.message_until(id, status, |message| message["status"] == status)
    }

    /// The `type`s of a message's events, oldest first.
    pub fn event_types(&self, id: &str) -> Vec<String> {
        self.events(id).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    /// A message's events, oldest first.
    pub fn events(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/v1/messages/{id}/events")).expect(200).json()["data"].as_array().unwrap().clone()
    }
}

impl Answer {
    /// Fails, and shows the body, unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text());
        self
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header field's value, empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("{} answered {} with a body that is not JSON ({e}): {}", self.request, self.status, self.text())
        })
    }

    /// Fails unless this is the problem `urn:signpost:problem:<name>` with that status, well-formed (RFC 9457); gives it.
    #[track_caller]
    pub fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.request);
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:signpost:problem:{name}"), "{}: {problem}", self.request);
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["title", "detail", "request_id"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        assert!(problem["errors"].is_null() || problem["errors"].is_array(), "{problem}");
        problem
    }

    /// The pointers of a problem's `errors`.
    #[track_caller]
    pub fn pointers(&self) -> Vec<String> {
        let problem = self.json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().filter_map(|error| error["pointer"].as_str().map(str::to_owned)).collect()
    }
}
