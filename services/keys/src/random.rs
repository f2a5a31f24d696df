//! The rng as a parameter.
use std::convert::Infallible;

/// Source of random octets.
pub trait Random: Send + Sync {
    /// Fills `dest`. Aborts the operation with a panic only where the operating system has no entropy source at all.
    fn fill(&self, dest: &mut [u8]);
}

/// The operating system's generator through aws-lc.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(
        clippy::expect_used,
        reason = "without entropy no key, nonce or id may be made; the trait's contract says so"
    )]
    fn fill(&self, dest: &mut [u8]) {
        aws_lc_rs::rand::fill(dest).expect("the operating system has no entropy source");
    }
}

/// A [`Random`] in the shape that the `rsa` crate asks for.
pub(crate) struct CryptoRandom<'a>(pub(crate) &'a dyn Random);

impl rand_core::TryRng for CryptoRandom<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut octets = [0; 4];
        self.0.fill(&mut octets);
        Ok(u32::from_le_bytes(octets))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut octets = [0; 8];
        self.0.fill(&mut octets);
        Ok(u64::from_le_bytes(octets))
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(dest);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for CryptoRandom<'_> {}
