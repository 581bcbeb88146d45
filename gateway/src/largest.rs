//! The largest number that fits, where all smaller ones do too.

/// The largest number in `low..=high` that `fits`, if any does; `fits` is monotone.
pub(crate) fn largest(low: u64, high: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    if low > high || !fits(low) {
        return None;
    }
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_that_fits_is_found() {
        assert_eq!(largest(1, 100, |n| n <= 42), Some(42));
        assert_eq!(largest(1, 100, |_| true), Some(100));
        assert_eq!(largest(50, 100, |n| n <= 42), None);
        assert_eq!(largest(7, 6, |_| true), None);
        assert_eq!(largest(0, u64::MAX, |n| n <= 3), Some(3));
    }
}
