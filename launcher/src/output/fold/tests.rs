use proptest::prelude::*;

use super::*;

/// What a test sees: the ranks, the segment, how it ends.
type Seen = (Vec<u32>, String, End);

struct Screen {
    fold: Fold,
    began: Instant,
    now: Instant,
    seen: Vec<Seen>,
}

impl Screen {
    fn of(world_size: u32) -> Self {
        let (fold, now) = (Fold::new(world_size, |_| true), Instant::now());
        Self { fold, began: now, now, seen: Vec::new() }
    }

    fn does(&mut self, what: impl FnOnce(&mut Fold, Instant, &mut dyn FnMut(Shown<'_>))) {
        let Self { fold, now, seen, .. } = self;
        what(fold, *now, &mut |shown| {
            assert!(shown.ranks.is_sorted() && !shown.ranks.is_empty());
            assert!(shown.age <= *now - self.began);
            let text = String::from_utf8_lossy(shown.segment).into_owned();
            seen.push((shown.ranks.to_vec(), text, shown.end));
        });
    }

    fn says(&mut self, rank: u32, segment: &str, end: End) {
        self.does(|fold, now, emit| fold.add(rank, segment.as_bytes(), end, now, emit));
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
        self.does(|fold, now, emit| fold.give_out(now, emit));
    }

    /// `0,1: a` for a whole line.
    fn takes(&mut self) -> Vec<String> {
        let text = |(ranks, text, _): Seen| {
            let ranks: Vec<String> = ranks.iter().map(u32::to_string).collect();
            format!("{}: {}", ranks.join(","), text.trim_end())
        };
        std::mem::take(&mut self.seen).into_iter().map(text).collect()
    }
}

#[test]
fn a_line_of_all_is_shown_at_once_when_the_last_has_said_it() {
    let mut screen = Screen::of(3);
    screen.says(2, "a\n", End::Line);
    screen.says(0, "a\n", End::Line);
    assert!(screen.takes().is_empty());
    screen.says(1, "a\n", End::Line);
    assert_eq!(screen.takes(), ["0,1,2: a"]);
    assert_eq!(screen.fold.deadline(), None);
}

#[test]
fn a_line_of_few_is_shown_after_a_moment() {
    let mut screen = Screen::of(3);
    screen.says(0, "a\n", End::Line);
    screen.passes(WAIT_MAX / 2);
    screen.says(1, "a\n", End::Line);
    screen.says(0, "b\n", End::Line);
    screen.passes(WAIT_MAX / 2 - Duration::from_millis(1));
    assert!(screen.takes().is_empty());
    screen.passes(Duration::from_millis(1));
    assert_eq!(screen.takes(), ["0,1: a"]);
    screen.passes(WAIT_MAX / 2);
    assert_eq!(screen.takes(), ["0: b"]);
}

#[test]
fn lines_that_differ_keep_nobody_from_joining_the_next() {
    let mut screen = Screen::of(3);
    for rank in 0..3 {
        screen.says(rank, "a\n", End::Line);
        screen.says(rank, &format!("mine {rank}\n"), End::Line);
        screen.says(rank, "b\n", End::Line);
    }
    screen.passes(WAIT_MAX);
    assert_eq!(screen.takes(), ["0,1,2: a", "0: mine 0", "1: mine 1", "2: mine 2", "0,1,2: b"]);
}

#[test]
fn ranks_that_say_the_same_in_another_order_keep_theirs() {
    let mut screen = Screen::of(3);
    for (rank, line) in [(0, "a\n"), (0, "b\n"), (1, "b\n"), (1, "a\n")] {
        screen.says(rank, line, End::Line);
    }
    screen.passes(WAIT_MAX);
    assert_eq!(screen.takes(), ["1: b", "0,1: a", "0: b"]);
}

#[test]
fn nobody_waits_for_ranks_that_have_ended() {
    let mut screen = Screen::of(3);
    screen.says(0, "a\n", End::Line);
    screen.says(1, "a\n", End::Line);
    screen.does(|fold, now, emit| fold.ended(2, now, emit));
    assert_eq!(screen.takes(), ["0,1: a"]);
    screen.says(1, "c\n", End::Line);
    screen.does(|fold, now, emit| fold.ended(0, now, emit));
    screen.says(1, "d\n", End::Line);
    assert_eq!(screen.takes(), ["1: c", "1: d"]);
}

#[test]
fn progress_bars_and_long_lines_are_not_held() {
    let mut screen = Screen::of(2);
    screen.says(0, "a\n", End::Line);
    screen.says(1, "10%\r", End::Repaint);
    assert_eq!(screen.takes(), ["1: 10%"]);
    screen.says(0, "x", End::Open);
    assert_eq!(screen.takes(), ["0: a", "0: x"]);
    screen.says(0, "y\n", End::Line);
    screen.says(1, "y\n", End::Line);
    assert_eq!(screen.takes(), ["0: y", "1: y"]);
}

/// F-4.
#[test]
fn few_lines_and_few_bytes_wait() {
    let mut screen = Screen::of(2);
    for number in 0..3 * LINES_MIN {
        screen.says(0, &format!("{number}\n"), End::Line);
        assert!(screen.fold.arrivals.len() <= LINES_MIN);
    }
    assert_eq!(screen.seen.len(), 2 * LINES_MIN);
    let long = "x".repeat(BYTES_MAX / 4);
    for number in 0..16 {
        screen.says(0, &format!("{long}{number}\n"), End::Line);
        assert!(screen.fold.bytes <= BYTES_MAX);
    }
    screen.does(|fold, now, emit| fold.finish(now, emit));
    assert_eq!((screen.fold.bytes, screen.fold.waiting.len()), (0, 0));
}

/// A rank says a line of a few or something else, time passes, or the rank ends.
fn step() -> impl Strategy<Value = (u32, u8, u64)> {
    (0..4_u32, 0..9_u8, prop_oneof![4 => Just(0), 1 => 0..150_u64])
}

proptest! {
    /// F-1, F-2, F-3.
    #[test]
    fn each_rank_is_shown_what_it_said_once_and_in_order(
        steps in prop::collection::vec(step(), 0..200)
    ) {
        let mut screen = Screen::of(4);
        let mut said = vec![Vec::new(); 4];
        let mut ended = [false; 4];
        for (rank, what, millis) in steps {
            screen.passes(Duration::from_millis(millis));
            let index = rank as usize;
            if what == 8 {
                ended[index] = true;
                screen.does(|fold, now, emit| fold.ended(rank, now, emit));
            } else if !ended[index] {
                let (text, end) = match what {
                    6 => ("bar\r".to_owned(), End::Repaint),
                    7 => ("piece".to_owned(), End::Open),
                    line => (format!("{}\n", line / 2), End::Line),
                };
                screen.says(rank, &text, end);
                said[index].push((text, end));
            }
            let held = screen.fold.speakers.iter().flat_map(|speaker| &speaker.held);
            let oldest = held.map(|held| held.since).min();
            prop_assert!(oldest.is_none_or(|since| screen.now - since < WAIT_MAX));
        }
        screen.does(|fold, now, emit| fold.finish(now, emit));
        for (rank, said) in (0..).zip(&said) {
            let shown = screen.seen.iter().filter(|(ranks, ..)| ranks.contains(&rank));
            let shown: Vec<_> = shown.map(|(_, text, end)| (text.clone(), *end)).collect();
            prop_assert_eq!(&shown, said);
        }
    }
}
