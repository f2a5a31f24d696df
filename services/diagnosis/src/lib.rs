//! DNS: the check of what a tenant published, with explanations; SPF and DMARC evaluation and alignment.
pub mod check;
mod dmarc;
pub mod dns;
pub mod evaluate;
pub mod guard;
mod results;
mod spf;
pub mod suffix;
