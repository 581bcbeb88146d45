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
/// or `block:40:2000` (milliseconds); `load:2000` makes the first load take so much longer.
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
    /// Loading takes so long.
    Load(Duration),
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

    /// Does it where a model is loaded.
    pub(crate) fn rehearse_load(&self) {
        if let Kind::Load(time) = self.kind
            && !self.done.swap(true, SeqCst)
        {
            block(time);
        }
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
            Kind::Load(_) => Ok(()),
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
        let wrong = || {
            "a drill is panic:N, fault:N, abort:N or block:N:MS, N computed steps, or load:MS"
                .to_owned()
        };
        let (name, numbers) = text.split_once(':').ok_or_else(wrong)?;
        let numbers: Result<Vec<u64>, _> = numbers.split(':').map(str::parse).collect();
        let (kind, after_steps) = match (name, numbers.map_err(|_| wrong())?.as_slice()) {
            ("panic", &[after_steps]) => (Kind::Panic, after_steps),
            ("fault", &[after_steps]) => (Kind::Fault, after_steps),
            ("abort", &[after_steps]) => (Kind::Abort, after_steps),
            ("block", &[after_steps, ms]) => (Kind::Block(Duration::from_millis(ms)), after_steps),
            ("load", &[ms]) => (Kind::Load(Duration::from_millis(ms)), 0),
            _ => return Err(wrong()),
        };
        Ok(Drill { kind, after_steps, done: Arc::default() })
    }
}
