//! SMTP server session (RFC 5321 4): the sandbox's inbox now, bounces and reports later.
mod command;
mod lines;
mod serve;
pub mod session;

pub use serve::serve;
