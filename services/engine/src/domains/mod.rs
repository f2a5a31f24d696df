//! Domains: register, records, check, enable, keys.
use crate::rows::{CheckRow, DomainRow, KeyRow, Page};
use crate::{Caller, Engine, Error};
use serde::{Deserialize, Serialize};

/// Purpose of a record (DESIGN: Record.purpose).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the JSON values")]
pub enum Purpose {
    Ownership,
    Dkim,
    Spf,
    ReturnPath,
    Dmarc,
}

/// A record to publish. `status` is a value of `diagnosis::check::Status`, or `unchecked`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN: Record")]
pub struct RecordView {
    pub purpose: Purpose,
    /// `TXT`, `CNAME`, `MX`.
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub relative_name: String,
    pub value: String,
    pub chunks: Vec<String>,
    pub required: bool,
    pub status: String,
    pub warnings: Vec<String>,
}

/// One server's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN: Check")]
pub struct ServerView {
    pub server: String,
    pub status: String,
}

/// A record in a check.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN: Check")]
pub struct CheckedRecord {
    #[serde(flatten)]
    pub record: RecordView,
    pub found: Vec<String>,
    pub servers: Vec<ServerView>,
    pub explanation: String,
}

/// A check.
#[derive(Debug, Clone)]
pub struct CheckView {
    /// Id without prefix.
    pub id: String,
    /// `pass`, `fail`, `indeterminate`.
    pub verdict: String,
    /// Milliseconds.
    pub checked_at: i64,
    /// Same order as the domain's records.
    pub records: Vec<CheckedRecord>,
}

/// A domain with all that belongs to it.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DomainView {
    pub row: DomainRow,
    pub keys: Vec<KeyRow>,
    pub records: Vec<RecordView>,
    pub last_check: Option<CheckView>,
}

/// POST /domains.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// As typed; U-labels welcome.
    pub name: String,
    /// `txt`; `delegated` comes with its own issue and is refused until then.
    pub dkim_mode: Option<String>,
    /// `rsa-2048` unless said.
    pub algorithm: Option<String>,
}

/// POST /domains/{id}/keys.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// `rsa-2048`, `rsa-3072`, `rsa-4096`, `ed25519`.
    pub algorithm: Option<String>,
    /// `sealed`, the only one so far.
    pub custody: Option<String>,
}

impl Engine {
    /// Registers a domain and makes its first key. Scope domains:write.
    pub async fn register_domain(&self, _caller: &Caller, _new: &NewDomain) -> Result<DomainView, Error> {
        todo!()
    }
    /// Scope domains:read.
    pub async fn domain(&self, _caller: &Caller, _id: &str) -> Result<DomainView, Error> {
        todo!()
    }
    /// Oldest first. Scope domains:read.
    pub async fn domains(
        &self,
        _caller: &Caller,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<DomainView>, Error> {
        todo!()
    }
    /// Scope domains:write.
    pub async fn delete_domain(&self, _caller: &Caller, _id: &str) -> Result<(), Error> {
        todo!()
    }
    /// What to publish. Scope domains:read.
    pub async fn domain_records(&self, _caller: &Caller, _id: &str) -> Result<Vec<RecordView>, Error> {
        todo!()
    }
    /// What to publish, as a BIND zone fragment. Scope domains:read.
    pub async fn domain_zone(&self, _caller: &Caller, _id: &str) -> Result<String, Error> {
        todo!()
    }
    /// Asks DNS now; deadline 10 s; 120 a minute per tenant. Scope domains:write.
    pub async fn check_domain(&self, _caller: &Caller, _id: &str) -> Result<CheckView, Error> {
        todo!()
    }
    /// History, newest first. Scope domains:read.
    pub async fn checks(
        &self,
        _caller: &Caller,
        _id: &str,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<CheckView>, Error> {
        todo!()
    }
    /// DESIGN "Enable". Scope domains:write.
    pub async fn enable_signing(&self, _caller: &Caller, _id: &str) -> Result<DomainView, Error> {
        todo!()
    }
    /// Idempotent. Scope domains:write.
    pub async fn disable_signing(&self, _caller: &Caller, _id: &str) -> Result<DomainView, Error> {
        todo!()
    }
    /// Oldest first. Scope domains:read.
    pub async fn domain_keys(&self, _caller: &Caller, _id: &str) -> Result<Vec<KeyRow>, Error> {
        todo!()
    }
    /// Makes a further key, `pending`. Scope domains:write.
    pub async fn create_domain_key(&self, _caller: &Caller, _id: &str, _new: &NewKey) -> Result<KeyRow, Error> {
        todo!()
    }
}

impl CheckView {
    /// From the stored row.
    pub fn from_row(_row: &CheckRow) -> Result<Self, Error> {
        todo!()
    }
}
