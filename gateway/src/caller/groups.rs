//! Teams and users as their keys meet them: whether they may work, and what their limits have let
//! through so far.

use super::{Caller, GroupRecord, KeyRecord};
use crate::{admission::KeyGate, ledger::Scope};
use std::{collections::HashMap, sync::Arc};

/// A team or a user.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) record: GroupRecord,
    pub(crate) gate: KeyGate,
}

/// Every team and user that was set up.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(HashMap<Scope, Arc<Group>>);

impl Groups {
    /// Sets up or changes one. Its counts go on.
    pub(super) fn put(&mut self, record: GroupRecord) {
        let before = self.0.get(&record.scope).map(|group| &group.gate);
        let gate = KeyGate::new(&record.limits, before);
        self.0.insert(record.scope.clone(), Arc::new(Group { record, gate }));
    }

    /// The caller of a key, within its user and team. `before` is the same key's before a change.
    pub(super) fn caller(&self, record: Arc<KeyRecord>, before: Option<&Caller>) -> Caller {
        let of = |scope: Scope| self.0.get(&scope).cloned();
        let user = record.user.as_deref().and_then(|user| of(Scope::User(user.into())));
        let of_user = user.as_ref().and_then(|user| user.record.team.clone());
        let team = record.team.clone().or(of_user);
        let of_team = team.as_deref().and_then(|team| of(Scope::Team(team.into())));
        let gate = KeyGate::new(&record.limits, before.map(|caller| &caller.gate));
        Caller::new(record, team, of_team.into_iter().chain(user).collect(), gate)
    }
}
