//! The check and the evaluation against a real BIND on loopback.
//!
//! `cfg(test)` on each module tells clippy that these are tests throughout.
#[cfg(test)]
mod bind;
#[cfg(test)]
mod case_files;
#[cfg(test)]
mod dnssec;
#[cfg(test)]
mod evaluation;
#[cfg(test)]
mod servers;
