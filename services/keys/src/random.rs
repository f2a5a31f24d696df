//! The rng as a parameter.

/// Source of random octets.
pub trait Random: Send + Sync {
    /// Fills `dest`. Aborts the operation with a panic only where the operating system has no entropy source at all.
    fn fill(&self, dest: &mut [u8]);
}

/// The operating system's generator through aws-lc.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, _dest: &mut [u8]) {
        todo!()
    }
}
