//! Support of the end-to-end tests: the built binary, a real BIND, an SMTP receiver, and judges that share no code with us.
//!
//! Everything is started anew per test, in fresh folders and on ports of its own, listens on loopback only, and dies with the
//! test, also when the test is killed. Trouble fails the test that met it, with what to do in the text.
//!
//! - [`Named`]: authoritative DNS, changed at run time.
//! - [`Unbound`]: a recursive resolver with a cache, which validates.
//! - [`Receiver`]: an SMTP server that records, and behaves as the recipient's local part says.
//! - [`Postfix`]: one that verifies, through rspamd.
//! - [`Meddler`]: stands between two and changes what they say, or not.
//! - [`Gate`]: stands before a server that is to be away.
//! - [`Sink`]: another one, inside the test process, for many messages and for dialogues that stay open.
//! - [`Client`], [`Ledger`]: load, and what came of it.
//! - [`Site`]: processes that die, and the count of what came of it.
//! - [`Mutant`]: the product with a promise broken, so that the test of the promise has to fail.
//! - [`PostgresServer`]: a database server, stopped and started at run time.
//! - [`Kms`]: a KMS, and how to make it fail.
//! - [`App`]: the binary as `signpost serve`; at its end, logs, database and answers are searched for secrets.
//! - [`Api`], [`Answer`]: the HTTP API as a caller sees it.
//! - [`DkimPy`], [`MailAuthJudge`], [`Rspamd`], [`OpenDkim`], [`our_verdict`]: who says what about a signature.
//! - [`named_checkzone`], [`route53`]: programs that read what we ask people to publish.
//! - [`World`]: all of it put together, with an enabled domain.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "support code of tests: trouble here is a failed test"
)]

mod api;
mod app;
mod aws_edge;
mod dns;
mod gate;
mod judges;
mod kms;
mod ledger;
mod load;
mod meddler;
mod metadata;
mod mutant;
mod opendkim;
mod ports;
mod postfix;
mod postgres;
mod process;
mod readers;
mod receiver;
mod rspamd;
mod secrets;
mod sink;
mod site;
mod world;

pub use api::{Answer, Api, Exchange};
pub use app::{App, AppBuilder, Tenant, binary};
pub use aws_edge::AwsEdge;
use dns::find;
pub use dns::{Named, NamedBuilder, Unbound};
pub use gate::Gate;
pub use judges::{Attachment, Decoded, DkimPy, MailAuthJudge, TxtRecords, our_verdict};
pub use kms::{Kms, SignCall};
pub use ledger::{Content, Death, Ledger, Posted, repetitions, repetitions_by_others};
pub use load::{Client, Dice};
pub use meddler::Meddler;
pub use metadata::{cargo_metadata, cargo_tree, repository};
pub use mutant::Mutant;
pub use opendkim::{OpenDkim, OpenDkimVerdict};
pub use ports::Port;
pub use postfix::{Delivered, Postfix};
pub use postgres::PostgresServer;
pub use process::{Process, wait_for};
pub use readers::{named_checkzone, route53};
pub use receiver::{Received, Receiver};
pub use rspamd::{Dialogue, Rspamd, Symbols};
pub use secrets::{Found, Needle, private_key_needles, search};
pub use sink::{Arrival, Ending, Sink};
pub use site::{Database, Site};
pub use world::{Domain, World, enabled_domain, required, signature_fields, unfolded_field};

use std::time::Duration;

/// How long a test waits for something that takes milliseconds, before it says that it never came.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Seconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "verifiers compare t= and x= with the real time")]
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// True under `tests/run --long`.
pub fn long() -> bool {
    std::env::var_os("SIGNPOST_LONG").is_some()
}
