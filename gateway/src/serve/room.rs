//! How much room a request takes while it runs. Its future is made on the stack and copied whole into
//! its box, once for every request, whatever of it is used; what waits in it waits for thousands at once.
//!
//! Where this fails something large has come to live beside something else across an `await`: end it
//! before (a block, a function of its own), or box it where few requests need it.

use super::{Asked, live};
use crate::{execute::Started, relay::Relay};

fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_request_that_runs_takes_little_room() {
    let sizes = [
        ("the handler", size_of_future(live), 3_616),
        ("what was asked", size_of::<Asked>(), 992),
        ("an answer that begins", size_of::<Started>(), 472),
        ("an answer that is relayed", size_of::<Relay>(), 1_664),
    ];
    for (what, bytes, bytes_max) in sizes {
        assert!(bytes <= bytes_max, "{what}: {bytes} bytes, {bytes_max} at most");
    }
}
