//! DNS: the check of what a tenant published, with explanations; SPF and DMARC evaluation and alignment.
pub mod check;
pub mod dns;
pub mod evaluate;
pub mod guard;
pub mod suffix;
