//! Handwritten digits: where they come from is told in `data/README.md`.

use anyhow::{Context, bail, ensure};

/// Pixels of a digit: 8 rows of 8.
pub(crate) const PIXELS: usize = 64;

/// Kinds of digits.
pub(crate) const LABELS: usize = 10;

/// The samples, those to learn from apart from those to be judged by.
#[derive(Debug)]
pub(crate) struct Digits {
    /// Six of seven.
    pub(crate) training: Vec<Sample>,
    /// Every seventh sample.
    pub(crate) test: Vec<Sample>,
}

/// One digit.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Darkness, 0 to 1, row by row.
    pub(crate) pixels: [f32; PIXELS],
    /// Which digit it is, 0 to 9.
    pub(crate) label: usize,
}

impl Digits {
    /// The digits that are compiled into this program, so that no rank needs to find a file.
    pub(crate) fn included() -> anyhow::Result<Self> {
        Self::parse(include_str!("../../../data/digits.csv"))
    }

    /// Reads lines of 64 whole numbers from 0 (white) to 16 (black) and the digit.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut digits = Self { training: Vec::new(), test: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            let sample = Sample::parse(line).with_context(|| format!("line {}", index + 1))?;
            let part = if index % 7 == 6 { &mut digits.test } else { &mut digits.training };
            part.push(sample);
        }
        ensure!(!digits.test.is_empty(), "fewer than seven samples");
        Ok(digits)
    }
}

impl Sample {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let numbers: Vec<u8> = line
            .split(',')
            .map(|word| word.parse().with_context(|| format!("{word:?} is no number below 256")))
            .collect::<Result<_, _>>()?;
        let [pixels @ .., label] = &numbers[..] else { bail!("nothing") };
        let label = usize::from(*label);
        ensure!(pixels.len() == PIXELS, "{} pixels instead of {PIXELS}", pixels.len());
        ensure!(label < LABELS, "there is no digit {label}");
        let mut sample = Self { pixels: [0.0; PIXELS], label };
        for (to, from) in sample.pixels.iter_mut().zip(pixels) {
            ensure!(*from <= 16, "a pixel of {from}; the darkest is 16");
            *to = f32::from(*from) / 16.0;
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_samples_are_there() {
        let digits = Digits::included().unwrap();
        assert_eq!((digits.training.len(), digits.test.len()), (1541, 256));
        for label in 0..LABELS {
            let count = digits.test.iter().filter(|sample| sample.label == label).count();
            assert!(count >= 15, "{count} test samples of {label}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let line = "0,".repeat(PIXELS);
        for (text, complaint) in [
            (format!("{line}3\n{line}10"), "line 2: there is no digit 10"),
            (format!("17,{}4", "0,".repeat(PIXELS - 1)), "line 1: a pixel of 17"),
            ("1,2".to_owned(), "line 1: 1 pixels instead of 64"),
            (format!("{line}x"), "line 1: \"x\" is no number"),
            (format!("{line}3"), "fewer than seven samples"),
        ] {
            let message = format!("{:#}", Digits::parse(&text).unwrap_err());
            assert!(message.contains(complaint), "{message}");
        }
    }
}
