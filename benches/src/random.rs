//! Random numbers that are the same on every machine and in every run.

/// A well mixed number for each input (Steele, Lea and Flood's SplitMix64, seeded with `index`).
pub(crate) const fn mix64(index: u64) -> u64 {
    // The increment spreads neighbouring inputs; the rest is the generator's output function.
    let mut mixed = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_splitmix64_seeded_with_zero() {
        assert_eq!(mix64(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix64(1), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(mix64(2), 0x06C4_5D18_8009_454F);
    }
}
