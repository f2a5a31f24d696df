//! The check and the evaluation against a real BIND on loopback.
mod bind;
mod case_files;
mod evaluation;
mod servers;
