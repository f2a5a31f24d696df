//! DNS: the check of what a tenant published, with explanations; SPF and DMARC evaluation and alignment.
mod alignment;
mod authority;
mod bounds;
pub mod check;
mod direct;
mod discovery;
mod dmarc;
pub mod dns;
pub mod evaluate;
pub mod guard;
mod judge;
mod misplaced;
mod questions;
mod results;
mod spf;
mod spf_check;
mod spf_permerror;
pub mod suffix;
