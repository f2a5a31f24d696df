//! A small HTTP client for our own API: the flow goes the way a tenant's backend goes.
use crate::Outcome;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Calls of one tenant.
pub(super) struct Client {
    address: SocketAddr,
    token: String,
}

/// Status and body of an answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(super) fn json(&self) -> Outcome<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The body as JSON if the status is the expected one; else an error that shows what came.
    pub(super) fn expect(&self, status: StatusCode) -> Outcome<Value> {
        if self.status == status {
            return self.json();
        }
        Err(format!("the API answered {} in place of {status}: {}", self.status, String::from_utf8_lossy(&self.body))
            .into())
    }
}

impl Client {
    pub(super) fn new(address: SocketAddr, token: String) -> Self {
        Self { address, token }
    }

    pub(super) async fn get(&self, path: &str) -> Outcome<Answer> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Outcome<Answer> {
        self.call(Method::POST, path, body).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Outcome<Answer> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token));
        let octets = match body {
            None => Bytes::new(),
            Some(value) => {
                request = request.header("content-type", "application/json");
                Bytes::from(value.to_string())
            }
        };
        let response = sender.send_request(request.body(Full::new(octets))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok(Answer { status, body })
    }
}
