//! Looks at every logit of a row: loops without branches over a fixed number of lanes, which the
//! compiler turns into vector instructions.

/// Logits looked at together.
const LANES: usize = 16;
/// Logits whose highest is remembered, so that its place need not be looked for among all.
const BLOCK: usize = 1_024;

/// The token with the highest logit, the first of equals; none if a logit is not a number or the
/// highest is not finite.
pub(super) fn peak(row: &[f32]) -> Option<i32> {
    let (mut best, mut block) = (f32::NEG_INFINITY, 0);
    for (at, logits) in row.chunks(BLOCK).enumerate() {
        let highest = highest(logits)?;
        if highest > best {
            (best, block) = (highest, at);
        }
    }
    if !best.is_finite() {
        return None;
    }
    let within = row.chunks(BLOCK).nth(block)?.iter().position(|logit| *logit >= best)?;
    i32::try_from(block * BLOCK + within).ok()
}

/// The highest of some logits; none if one is not a number.
fn highest(logits: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut odd = [0_u32; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        // By number: of zipped iterators not every build makes vector instructions.
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            odd[lane] |= u32::from(chunk[lane].is_nan());
        }
    }
    let mut best = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for logit in rest {
        odd[0] |= u32::from(logit.is_nan());
        best = best.max(*logit);
    }
    odd.iter().all(|odd| *odd == 0).then_some(best)
}

/// Shows the tokens whose logits are above a bound that may rise from one to the next.
pub(super) fn above(row: &[f32], mut bound: f32, mut show: impl FnMut(i32, f32) -> f32) {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut token = 0;
    for chunk in chunks {
        // Without a branch for each: nearly all chunks hold nothing.
        if chunk.iter().fold(false, |any, logit| any | (*logit > bound)) {
            for (logit, token) in chunk.iter().zip(token..) {
                if *logit > bound {
                    bound = show(token, *logit);
                }
            }
        }
        token += 16;
    }
    for (logit, token) in rest.iter().zip(token..) {
        if *logit > bound {
            bound = show(token, *logit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{above, peak};

    /// Logits in no order, some equal, of every length around the lanes and blocks.
    fn rows() -> impl Iterator<Item = Vec<f32>> {
        (1..80).chain([1_023, 1_024, 1_025, 3_000]).map(|length: u32| {
            (0..length)
                .map(|at| f32::from(u16::try_from(at * 7_919 % 61).expect("small")) - 30.0)
                .collect()
        })
    }

    #[test]
    fn the_peak_is_the_first_of_the_highest() {
        for row in rows() {
            let mut best = 0;
            for (at, logit) in row.iter().enumerate() {
                if *logit > row[best] {
                    best = at;
                }
            }
            assert_eq!(peak(&row), i32::try_from(best).ok());
        }
    }

    #[test]
    fn one_that_is_no_number_is_found_at_every_place() {
        for length in [1, 15, 16, 17, 40, 1_030] {
            for at in 0..length {
                let mut row = vec![1.0; length];
                row[at] = f32::NAN;
                assert_eq!(peak(&row), None, "{at} of {length}");
            }
        }
    }

    #[test]
    fn all_above_a_rising_bound_are_shown_in_order() {
        for row in rows() {
            let (mut shown, mut expected) = (Vec::new(), Vec::new());
            above(&row, -20.0, |token, logit| {
                shown.push(token);
                logit
            });
            let mut bound = -20.0;
            for (token, logit) in (0..).zip(&row) {
                if *logit > bound {
                    expected.push(token);
                    bound = *logit;
                }
            }
            assert_eq!(shown, expected);
        }
    }
}
