//! What the store promises, told without naming a database. Each behaviour is run on every database there is.
// What lies here is test code for clippy too.
#![cfg(test)]

mod support;

mod deletion;
mod domains;
mod idempotency;
mod installation;
mod messages;
mod queue;
mod release;
mod remote_keys;
mod spawned;
mod tenants;
