//! Drives every target for a moment. `FUZZ_RUNS` says how many inputs each gets, `FUZZ_SEED` which.

use paceline_fuzz::{TARGETS, drive};

#[expect(clippy::disallowed_methods, reason = "it is no setting of the product")]
fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

fn briefly(name: &str, runs: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let runs = number("FUZZ_RUNS", runs);
    drive(target, number("FUZZ_SEED", 1), u32::try_from(runs).expect("not so many"));
}

macro_rules! briefly {
    ($($name:ident: $runs:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                briefly(stringify!($name), $runs);
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            let driven = [$(stringify!($name)),*];
            assert!(TARGETS.iter().all(|target| driven.contains(&target.name)));
        }
    };
}

briefly!(
    agent: 20_000,
    announcement: 20_000,
    arena: 5_000,
    cards: 20_000,
    data: 4_000,
    files: 20_000,
    frame: 5_000,
    hello: 2_000,
    message: 20_000,
    texts: 20_000,
    variables: 10_000,
);

#[test]
#[should_panic(expected = "told")]
fn what_breaks_is_found() {
    let target = paceline_fuzz::Target {
        name: "touchy",
        run: |bytes| assert!(!bytes.contains(&0x80), "told"),
        seeds: || vec![b"abc".to_vec()],
    };
    drive(&target, 1, 10_000);
}
