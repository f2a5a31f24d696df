//! The KMS: tests/tools/kms_server.py, spoken to as AWS's own tools would.
use crate::judges::python;
use crate::{Answer, Api, AppBuilder, DEADLINE, Port, Process, repository, wait_for};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tempfile::TempDir;

/// The server does not check signatures of requests, but takes the region from where they say it.
const AUTHORIZATION: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0";
/// What the binary signs its requests with; found nowhere else.
const SECRET_ACCESS_KEY: &str = "kL9sPq3vXw7bTz2NfYh5cRg8jMdUe6aQ4oViBnEx";

/// A call for a signature, as the KMS saw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize)]
pub struct SignCall {
    /// When it came, in ms of the KMS's clock.
    pub at: u64,
    /// ARN of the key.
    pub key: String,
    /// What was to be signed, base64.
    pub input: String,
    /// `ok`, or the fault that it met.
    pub outcome: String,
}

/// A running KMS. Dropped: killed, and its keys with it.
pub struct Kms {
    _process: Process,
    _folder: TempDir,
    port: Port,
    api: Api,
}

impl Kms {
    /// An empty one.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("signpost-kms-").tempdir().unwrap();
        let port = Port::reserve();
        let mut process = Process::start("the KMS", &python(), &folder.path().join("log"), |command| {
            command.arg(repository().join("tests/tools/kms_server.py"));
            command.arg(port.number().to_string()).arg(folder.path());
        });
        let ready = folder.path().join("ready");
        wait_for("the KMS listens", 2 * DEADLINE, || {
            process.assert_running();
            ready.exists().then_some(())
        });
        let api = Api::new(SocketAddr::from(([127, 0, 0, 1], port.number())));
        Self { _process: process, _folder: folder, port, api }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// One operation of the KMS's protocol.
    pub fn call(&self, operation: &str, input: &Value) -> Value {
        self.try_call(operation, input).expect(200).json()
    }

    fn try_call(&self, operation: &str, input: &Value) -> Answer {
        let api = self.api.with_header("X-Amz-Target", &format!("TrentService.{operation}"));
        let api = api.with_header("Authorization", AUTHORIZATION);
        api.call("POST", "/", Some("application/x-amz-json-1.1"), input.to_string().into_bytes())
    }

    /// Ids of all keys.
    pub fn keys(&self) -> Vec<String> {
        let listed = self.call("ListKeys", &json!({}));
        listed["Keys"].as_array().unwrap().iter().map(|key| key["KeyId"].as_str().unwrap().to_owned()).collect()
    }

    /// The id of the key that is tagged as this one (`key_...`).
    pub fn key_of(&self, key_id: &str) -> String {
        let wanted = key_id.strip_prefix("key_").unwrap();
        let tagged = |id: &String| {
            let tags = self.call("ListResourceTags", &json!({"KeyId": id}));
            tags["Tags"].as_array().unwrap().iter().any(|t| t["TagKey"] == "signpost:key" && t["TagValue"] == wanted)
        };
        self.keys().into_iter().find(tagged).unwrap_or_else(|| panic!("no key in the KMS is tagged {key_id}"))
    }

    /// SubjectPublicKeyInfo, base64.
    pub fn public_key(&self, id: &str) -> String {
        self.call("GetPublicKey", &json!({"KeyId": id}))["PublicKey"].as_str().unwrap().to_owned()
    }

    /// `Enabled`, `Disabled`, `PendingDeletion`.
    pub fn state(&self, id: &str) -> String {
        self.call("DescribeKey", &json!({"KeyId": id}))["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned()
    }

    /// The key signs no more.
    pub fn disable(&self, id: &str) {
        self.try_call("DisableKey", &json!({"KeyId": id})).expect(200);
    }

    /// The key signs again.
    pub fn enable(&self, id: &str) {
        self.try_call("EnableKey", &json!({"KeyId": id})).expect(200);
    }

    /// From now on Sign goes wrong in that way; see kms_server.py.
    pub fn fault(&self, kind: &str) {
        self.api.post_empty(&format!("/_test/fault?kind={kind}")).expect(200);
    }

    /// The same of so many of a hundred calls.
    pub fn fault_of(&self, kind: &str, percent: u8) {
        self.api.post_empty(&format!("/_test/fault?kind={kind}&percent={percent}")).expect(200);
    }

    /// Every call for a signature so far, in the order they came.
    pub fn sign_calls(&self) -> Vec<SignCall> {
        serde_json::from_value(self.api.get("/_test/log").expect(200).json()).unwrap()
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> u64 {
        self.api.get("/_test/calls").expect(200).json()[operation].as_u64().unwrap_or(0)
    }
}

impl AppBuilder {
    /// The standard AWS settings that lead to this KMS.
    pub fn kms(self, kms: &Kms) -> Self {
        self.env("AWS_ENDPOINT_URL_KMS", format!("http://127.0.0.1:{}", kms.port()))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .secret("AWS secret access key", SECRET_ACCESS_KEY)
    }

    /// And new keys are made there.
    pub fn keys_in(self, kms: &Kms) -> Self {
        self.kms(kms).env("SIGNPOST_KEY_CUSTODY", "aws-kms")
    }
}
