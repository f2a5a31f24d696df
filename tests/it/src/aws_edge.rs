//! STS, and who may use which key: tests/tools/aws_edge.py in front of the KMS.
use crate::judges::python;
use crate::{Api, AppBuilder, DEADLINE, Kms, Port, Process, repository, wait_for};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tempfile::TempDir;

/// Where the service looks for AWS. Dropped: killed.
pub struct AwsEdge {
    _process: Process,
    _folder: TempDir,
    port: Port,
    api: Api,
}

impl AwsEdge {
    /// In front of this KMS; without any role.
    pub fn before(kms: &Kms) -> Self {
        let folder = tempfile::Builder::new().prefix("signpost-aws-").tempdir().unwrap();
        let port = Port::reserve();
        let mut process = Process::start("STS", &python(), &folder.path().join("log"), |command| {
            command.arg(repository().join("tests/tools/aws_edge.py"));
            command.arg(port.number().to_string()).arg(kms.port().to_string()).arg(folder.path());
        });
        let ready = folder.path().join("ready");
        wait_for("STS listens", 2 * DEADLINE, || {
            process.assert_running();
            ready.exists().then_some(())
        });
        let api = Api::new(SocketAddr::from(([127, 0, 0, 1], port.number())));
        Self { _process: process, _folder: folder, port, api }
    }

    /// This role may use these keys; who names that ExternalId may assume it, without one everybody.
    pub fn role(&self, arn: &str, external_id: Option<&str>, keys: &[&str]) {
        self.api.post("/_test/role", &json!({"arn": arn, "external_id": external_id, "keys": keys})).expect(200);
    }

    /// The service's own credentials may not use this key.
    pub fn foreign(&self, key: &str) {
        self.api.post("/_test/foreign", &json!({"keys": [key]})).expect(200);
    }

    /// Every session is over.
    pub fn expire(&self) {
        self.api.post("/_test/expire", &json!({})).expect(200);
    }

    /// Every AssumeRole there was.
    pub fn assumed(&self) -> Vec<Value> {
        self.api.get("/_test/assumed").expect(200).json().as_array().unwrap().clone()
    }
}

impl AppBuilder {
    /// The standard AWS settings that lead to the KMS and to STS through this.
    pub fn aws(self, kms: &Kms, edge: &AwsEdge) -> Self {
        let url = format!("http://127.0.0.1:{}", edge.port.number());
        self.kms(kms).env("AWS_ENDPOINT_URL_KMS", url.as_str()).env("AWS_ENDPOINT_URL_STS", url)
    }
}
