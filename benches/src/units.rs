//! Numbers for people: three significant digits and a unit, seven columns at most.

use crate::metrics::as_f64;

/// A time such as `380 ns`, `11.4 us`, `1.53 ms`, `2.50 s`.
pub fn format_nanoseconds(nanoseconds: f64) -> String {
    if !nanoseconds.is_finite() {
        return "-".to_owned();
    }
    for (unit, scale) in [("ns", 1.0), ("us", 1e3), ("ms", 1e6)] {
        // 999.5 would round to 1000 and need a fifth character.
        if nanoseconds < 999.5 * scale {
            let value = nanoseconds / scale;
            return if unit == "ns" && value.fract() == 0.0 {
                format!("{value:.0} ns")
            } else {
                format!("{} {unit}", three_digits(value))
            };
        }
    }
    format!("{} s", three_digits(nanoseconds / 1e9))
}

/// A time given in microseconds, as reports hold them.
pub fn format_microseconds(microseconds: f64) -> String {
    format_nanoseconds(microseconds * 1e3)
}

/// A size such as `4 B`, `64 KiB`, `97.5 MiB`.
pub fn format_bytes(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let scale = 1_u64 << shift;
        if bytes >= scale {
            return if bytes.is_multiple_of(scale) {
                format!("{} {unit}", bytes / scale)
            } else {
                format!("{} {unit}", three_digits(as_f64(bytes) / as_f64(scale)))
            };
        }
    }
    debug_assert!(bytes < KIB, "larger sizes returned above");
    format!("{bytes} B")
}

/// Three significant digits without exponent: `0.0123`, `1.23`, `12.3`, `123`, `1234`; two where
/// zeros take the room of the third: `0.00042`, `0.0000042`.
pub fn three_digits(value: f64) -> String {
    /// The smallest double that is not subnormal has its first digit there.
    const DECIMALS_MAX: usize = 308;
    let magnitude = value.abs();
    // The limits are where rounding would reach the next power of ten.
    let decimals = match magnitude {
        0.0 => 0,
        m if m < 0.009_995 => {
            let mut decimals = 5;
            let mut scaled = m * 1e5;
            while scaled < 9.5 && decimals < DECIMALS_MAX {
                (scaled, decimals) = (scaled * 10.0, decimals + 1);
            }
            decimals
        }
        m if m < 0.099_95 => 4,
        m if m < 0.999_5 => 3,
        m if m < 9.995 => 2,
        m if m < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (nanoseconds, text) in [
            (0.0, "0 ns"),
            (1.0, "1 ns"),
            (380.0, "380 ns"),
            (380.4, "380 ns"),
            (999.4, "999 ns"),
            (999.6, "1.00 us"),
            (11_400.0, "11.4 us"),
            (999_499.0, "999 us"),
            (999_500.0, "1.00 ms"),
            (14_500_000.0, "14.5 ms"),
            (2_500_000_000.0, "2.50 s"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(format_nanoseconds(nanoseconds), text, "{nanoseconds}");
        }
        assert_eq!(format_microseconds(66.0), "66.0 us");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (4, "4 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB"),
            (64 << 20, "64 MiB"),
            (102_228_128, "97.5 MiB"),
            (3 << 30, "3 GiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn every_time_fits_in_seven_columns() {
        let mut nanoseconds = 1.0;
        while nanoseconds < 9e11 {
            let text = format_nanoseconds(nanoseconds);
            assert!(text.len() <= 7, "{text:?}");
            nanoseconds *= 1.003;
        }
    }

    #[test]
    fn significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.000_004_2, "0.0000042"),
            (0.000_09, "0.000090"),
            (0.000_094_9, "0.000095"),
            (0.000_095_1, "0.00010"),
            (0.000_42, "0.00042"),
            (0.001_234, "0.00123"),
            (0.012_34, "0.0123"),
            (0.999_6, "1.00"),
            (9.996, "10.0"),
            (99.96, "100"),
        ] {
            assert_eq!(three_digits(value), text);
        }
    }
}
