//! Every target, chosen by the first byte.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let [first, rest @ ..] = bytes {
        let target = &paceline_fuzz::TARGETS[usize::from(*first) % paceline_fuzz::TARGETS.len()];
        (target.run)(rest);
    }
});
