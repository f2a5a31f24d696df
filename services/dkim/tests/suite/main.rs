//! The DKIM engine against the case files of `tests/cases/dkim` and against a second, naive canonicalizer.
//!
//! `cfg(test)` on each module tells clippy that these are tests throughout.
#[cfg(test)]
mod addresses;
#[cfg(test)]
mod block_borders;
#[cfg(test)]
mod canonical;
#[cfg(test)]
mod case_file;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod records;
#[cfg(test)]
mod sign;
#[cfg(test)]
mod signing_key;
#[cfg(test)]
mod verify;
