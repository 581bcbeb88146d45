//! Compiled rules, kept for the jobs that have the same one: the choices and prompts of a request come
//! one by one, and a rule may take seconds to compile.
//!
//! **Invariant:** a rule is compiled by one of those who want it at the same time, and no more than
//! [`RULES_MAX`] are kept. What could not be compiled is tried again by who comes later.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use super::parent::lock;
use crate::constraint::Rule;

/// Rules that are kept: some MB each.
const RULES_MAX: usize = 16;

/// See the file's head. The newest one is the last.
#[derive(Debug)]
pub(super) struct Rules<T, E>(Mutex<VecDeque<Arc<Kept<T, E>>>>);

#[derive(Debug)]
struct Kept<T, E> {
    rule: Rule,
    /// Locked while it is being compiled.
    compiled: Mutex<Option<Result<T, E>>>,
}

impl<T: Clone, E: Clone> Rules<T, E> {
    pub(super) fn new() -> Rules<T, E> {
        Rules(Mutex::default())
    }

    /// The compiled rule, which `compile` makes where it is not kept. Blocks while another makes it.
    pub(super) fn compiled(
        &self,
        rule: &Rule,
        compile: impl FnOnce(&Rule) -> Result<T, E>,
    ) -> Result<T, E> {
        let kept = self.kept(rule);
        let mut compiled = lock(&kept.compiled);
        if let Some(compiled) = &*compiled {
            return compiled.clone();
        }
        let made = compile(rule);
        if made.is_err() {
            lock(&self.0).retain(|other| !Arc::ptr_eq(other, &kept));
        }
        *compiled = Some(made.clone());
        made
    }

    /// The rule's place, the newest from now on.
    fn kept(&self, rule: &Rule) -> Arc<Kept<T, E>> {
        let mut all = lock(&self.0);
        let known = all.iter().position(|kept| kept.rule == *rule).and_then(|at| all.remove(at));
        let kept = known
            .unwrap_or_else(|| Arc::new(Kept { rule: rule.clone(), compiled: Mutex::new(None) }));
        if all.len() >= RULES_MAX {
            all.pop_front();
        }
        all.push_back(Arc::clone(&kept));
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    fn rule(name: usize) -> Rule {
        Rule::Regex(name.to_string())
    }

    #[test]
    fn a_rule_is_compiled_once_for_all_who_want_it() {
        let (rules, compiled) = (Rules::<usize, ()>::new(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let made = rules.compiled(&rule(1), |_| Ok(compiled.fetch_add(1, SeqCst)));
                    assert_eq!(made, Ok(0));
                });
            }
        });
        assert_eq!(compiled.load(SeqCst), 1);
    }

    #[test]
    fn the_one_unused_longest_is_given_up() {
        let rules = Rules::<usize, ()>::new();
        for name in 0..RULES_MAX {
            assert_eq!(rules.compiled(&rule(name), |_| Ok(1)), Ok(1));
        }
        for (name, made) in [(0, 1), (RULES_MAX, 2), (0, 1), (1, 2), (RULES_MAX, 2)] {
            assert_eq!(rules.compiled(&rule(name), |_| Ok(2)), Ok(made), "{name}");
        }
        assert_eq!(lock(&rules.0).len(), RULES_MAX);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let rules = Rules::<usize, &str>::new();
        assert_eq!(rules.compiled(&rule(1), |_| Err("busy")), Err("busy"));
        assert_eq!(rules.compiled(&rule(1), |_| Ok(1)), Ok(1));
    }
}
