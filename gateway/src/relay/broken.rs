//! What the caller of an answer that broke after it had begun is told.
//!
//! **Invariant:** what the caller can do something about is told as if it had been found before the
//! answer began: an SDK asks again for a 502.

use crate::{
    refusal::Refusal,
    routes::{Fault, FaultKind},
};
use std::time::Duration;

/// See the file's head.
pub(super) fn refusal(fault: &Fault) -> Refusal {
    let told = || format!("the answer broke off: {}", fault.kind);
    match &fault.kind {
        FaultKind::TooDear(bad) => Refusal::Bad(bad.clone()),
        FaultKind::Busy => Refusal::Busy(Duration::from_secs(1)),
        FaultKind::Crowded => Refusal::Crowded(Duration::from_secs(1)),
        FaultKind::Late(_) => Refusal::Deadline(fault.kind.to_string()),
        FaultKind::Unread => Refusal::Deadline(told()),
        _ => Refusal::Upstream(told()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::BadRequest;

    #[test]
    fn what_a_caller_can_mend_is_no_bad_gateway() {
        let told = |kind| {
            let refusal = refusal(&Fault::new(kind, "for the log"));
            (refusal.status().as_u16(), refusal.param().map(str::to_owned))
        };
        let bad = BadRequest::unsupported("response_format", "it takes too much");
        let param = bad.param.clone();
        assert_eq!(told(FaultKind::TooDear(bad)), (400, param));
        assert_eq!(told(FaultKind::Busy), (503, None), "it may be asked again");
        assert_eq!(told(FaultKind::Late(Duration::from_secs(1))), (504, None));
        assert_eq!(told(FaultKind::Stopped), (502, None));
        assert_eq!(told(FaultKind::Engine), (502, None));
        let late = refusal(&Fault::new(FaultKind::Late(Duration::from_millis(800)), ""));
        assert_eq!(late.to_string(), "no answer within the 800 ms asked");
    }
}
