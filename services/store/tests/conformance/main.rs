//! What the store promises, told without naming a database. Each behaviour is run on every database there is.
// What lies here is test code for clippy too.
#![cfg(test)]

#[expect(dead_code, reason = "shared with the tests of one database each, which use the rest")]
mod support;

mod audit;
mod delegation;
mod deletion;
mod domains;
mod idempotency;
mod installation;
mod key_life;
mod master_key;
mod messages;
mod own_keys;
mod queue;
mod release;
mod remote_keys;
mod spawned;
mod tenants;
mod token_keys;
mod usage;
mod watch;
