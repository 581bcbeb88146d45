//! Doors for the fuzz driver to what no caller reaches directly. Not an interface.

use crate::{constraint::Constraint, engine::Engine, text::TextStream};

/// Feeds pieces of bytes through the text stream with these stop texts; returns what was shown and
/// whether a stop text was met.
#[must_use]
pub fn shown(stops: &[String], pieces: &[&[u8]]) -> (String, bool) {
    let mut stream = TextStream::new(stops.to_vec());
    let mut shown = String::new();
    for piece in pieces {
        shown.push_str(&stream.push(piece));
    }
    let stopped = stream.stopped().is_some();
    if !stopped {
        shown.push_str(&stream.rest());
    }
    (shown, stopped)
}

/// Draws a token for each pick under a constraint: the allowed one that the pick falls on, or the end
/// where that is allowed and the pick is even. The text, if it came to an end; none too where a token
/// takes too much to compute.
///
/// # Errors
/// Nothing was allowed, not even the end.
pub fn walk(
    engine: &Engine,
    constraint: &mut Constraint,
    picks: &[u8],
) -> Result<Option<String>, String> {
    let ends = &engine.info().end_tokens;
    let mut bytes = Vec::new();
    for pick in picks {
        let Ok(allowed) = constraint.allowed() else { return Ok(None) };
        let mut tokens = Vec::new();
        allowed.each(|token| tokens.push(token));
        let end = tokens.iter().find(|token| ends.contains(token)).filter(|_| pick % 2 == 0);
        let at = usize::from(*pick) * 7_919 % tokens.len().max(1);
        let Some(token) = end.or_else(|| tokens.get(at)).copied() else {
            return Err("no token is allowed, not even the end".to_owned());
        };
        if ends.contains(&token) {
            return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
        }
        bytes.extend(engine.token_bytes(token));
        if constraint.accept(token).is_err() {
            return Ok(None);
        }
    }
    Ok(None)
}
