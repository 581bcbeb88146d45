//! Amounts as other programs' price files write them, exactly.
//!
//! **Invariant:** no float ever holds an amount: the digits are read as they stand, exponent
//! included, and an amount finer than a pico-USD is rounded half-even and says so.

use policies::PicoUsd;

/// An amount in pico-USD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    /// The amount.
    pub(super) pico: PicoUsd,
    /// Whether it stood there finer.
    pub(super) rounded: bool,
}

/// Powers of ten between what a file's number counts and one pico-USD a unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scale {
    /// US dollars for one.
    One,
    /// US dollars for a thousand.
    Thousand,
    /// US dollars for a million.
    Million,
}

/// Reads `1.25`, `"1.25"` or `1.25e-06`; `None` for what is no amount, a negative one included.
pub(super) fn read(written: &str, scale: Scale) -> Option<Amount> {
    let text = written.trim().trim_matches('"');
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let shift = match scale {
        Scale::One => 12,
        Scale::Thousand => 9,
        Scale::Million => 6,
    };
    let power = exponent.checked_add(shift)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let digits = digits.trim_start_matches('0');
    let mantissa: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let ten = |power: u32| 10_u128.checked_pow(power);
    let (pico, rounded) = match u32::try_from(power) {
        Ok(power) => (mantissa.checked_mul(ten(power)?)?, false),
        Err(_) => match ten(power.unsigned_abs()) {
            Some(by) => divide(mantissa, by),
            // So fine that nothing is left of it.
            None => (0, mantissa != 0),
        },
    };
    Some(Amount { pico: PicoUsd::from_pico(u64::try_from(pico).ok()?), rounded })
}

/// The quotient, half-even, and whether it is not exact.
fn divide(mantissa: u128, by: u128) -> (u128, bool) {
    let (quotient, rest) = (mantissa / by, mantissa % by);
    let up = match (rest.saturating_mul(2)).cmp(&by) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => quotient % 2 == 1,
    };
    (quotient + u128::from(up), rest != 0)
}

#[cfg(test)]
mod tests {
    use super::{Scale, read};

    #[test]
    fn amounts_are_read_to_the_digit() {
        for (text, scale, pico, rounded) in [
            ("1.25e-06", Scale::One, 1_250_000, false),
            ("1.25E-6", Scale::One, 1_250_000, false),
            ("0.00000125", Scale::One, 1_250_000, false),
            ("\"0.125\"", Scale::Million, 125_000, false),
            ("10", Scale::Million, 10_000_000, false),
            ("35", Scale::Thousand, 35_000_000_000, false),
            ("0", Scale::One, 0, false),
            ("0.0000001", Scale::Million, 0, true),
            ("0.0000015", Scale::Million, 2, true),
            ("0.0000025", Scale::Million, 2, true),
            ("1e-400", Scale::One, 0, true),
        ] {
            let read = read(text, scale).unwrap();
            assert_eq!((read.pico.pico(), read.rounded), (pico, rounded), "{text}");
        }
        for text in ["", "-1", "+1", "1,5", "NaN", "1e", "null", "1e99", "99999999999999999999999"]
        {
            assert_eq!(read(text, Scale::One), None, "{text}");
        }
    }
}
