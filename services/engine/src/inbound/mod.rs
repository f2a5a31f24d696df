//! SMTP server session (RFC 5321 4): the sandbox's inbox now, bounces and reports later.
pub mod session;
