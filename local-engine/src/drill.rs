//! A fault on purpose, to rehearse what follows one: the engine's own tests use it, and operators
//! may. It happens once in the life of a process, at the first turn after so many steps.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::status::Gauges;

/// What happens, and after how many computed steps. Written as `panic:40`, `fault:40`, `abort:40`
/// or `block:40:2000` (milliseconds).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drill {
    kind: Kind,
    after_steps: u64,
    #[serde(skip)]
    done: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// The scheduler panics.
    Panic,
    /// The device says that it is broken.
    Fault,
    /// The process ends as by an assertion of llama.cpp.
    Abort,
    /// A step takes so long.
    Block(Duration),
}

impl Drill {
    /// Whether it ends the whole process.
    #[must_use]
    pub fn aborts(&self) -> bool {
        self.kind == Kind::Abort
    }

    /// The drill for a child process, which only the first one gets.
    pub(crate) fn take(&self) -> Option<Drill> {
        let first = !self.done.swap(true, SeqCst);
        first.then(|| Drill { done: Arc::default(), ..self.clone() })
    }

    /// Does it, when it is time.
    #[expect(clippy::panic, reason = "a rehearsed panic is what was asked for")]
    pub(crate) fn rehearse(&self, gauges: &Gauges) -> Result<(), String> {
        if gauges.steps.load(SeqCst) < self.after_steps || self.done.swap(true, SeqCst) {
            return Ok(());
        }
        match self.kind {
            Kind::Panic => panic!("a rehearsed panic"),
            Kind::Fault => Err("a rehearsed fault".to_owned()),
            Kind::Abort => std::process::abort(),
            Kind::Block(time) => {
                block(time);
                Ok(())
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a rehearsed hang is what was asked for")]
fn block(time: Duration) {
    std::thread::sleep(time);
}

impl FromStr for Drill {
    type Err = String;

    fn from_str(text: &str) -> Result<Drill, String> {
        let wrong =
            || "a drill is panic:N, fault:N, abort:N or block:N:MS, N computed steps".to_owned();
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let number = |part: Option<&str>| part.and_then(|part| part.parse::<u64>().ok());
        let after_steps = number(parts.next()).ok_or_else(wrong)?;
        let kind = match kind {
            "panic" => Kind::Panic,
            "fault" => Kind::Fault,
            "abort" => Kind::Abort,
            "block" => Kind::Block(Duration::from_millis(number(parts.next()).ok_or_else(wrong)?)),
            _ => return Err(wrong()),
        };
        match parts.next() {
            Some(_) => Err(wrong()),
            None => Ok(Drill { kind, after_steps, done: Arc::new(AtomicBool::new(false)) }),
        }
    }
}
