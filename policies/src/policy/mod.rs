//! A policy: a file of rules, checked whole at load and immutable from then on.
//!
//! **Invariants:** a policy that does not parse, that uses a word it should not, or that fails its
//! own tests never becomes a [`Policy`]; its version is the hash of its bytes.

mod condition;
mod conditions_read;
mod decide;
mod explain;
mod routes;
mod rules;
mod shipped;
mod signal;
mod sketch;
mod sketch_read;

pub use condition::Outcome;
pub use decide::{Guarded, choose, decide, guard};
pub(crate) use explain::observed;
pub use explain::{Phase, RouteTrace, RuleTried, SignalRead, Trace, TraceVerdict, explain};
pub use shipped::{SHIPPED, shipped};

use crate::{
    OnShort, PolicyName, PolicyVersion, RouteId, RuleName,
    file::{Fields, Place, PolicyError, Source},
};
use condition::{Condition, Test};
use routes::{Pick, RouteRef};
use rules::{Choose, ChooseAction, Guard, GuardAction};
use signal::{BudgetRef, FlagSignal, NumberSignal};
use std::{fmt, sync::Arc};

/// A parsed and checked policy.
#[derive(Clone, Debug)]
pub struct Policy {
    name: PolicyName,
    version: PolicyVersion,
    source: Arc<str>,
    description: Option<Box<str>>,
    on_short: OnShort,
    unknown_price: UnknownPrice,
    guards: Vec<Guard>,
    chooses: Vec<Choose>,
    tests: usize,
    /// Names of the built-in rules, made once.
    pinned_rule: RuleName,
    named_rule: RuleName,
    /// Whether rules of its own deal with pinned and named requests.
    rules_on_pinned: bool,
    rules_on_named: bool,
}

/// What a policy does with a cloud route whose price nobody knows, and for which the configuration
/// says what to reserve instead. Without that it is left out in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum UnknownPrice {
    Refuse,
    #[default]
    Allow,
}

/// A configured route, for checking a policy against the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRoute {
    /// Its name.
    pub id: RouteId,
    /// Whether it answers inside this process.
    pub local: bool,
}

/// Something in a policy that works but may not be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyWarning {
    /// Line of the rule, from 1; 0 where it is about the whole policy.
    pub line: usize,
    /// What may go wrong.
    pub message: String,
}

// === impl Policy ===

impl Policy {
    /// Parses and checks a policy, and runs the tests that stand in it. `name` is the file's stem.
    ///
    /// # Errors
    /// What is wrong and where: TOML, unknown keys, units or comparisons, or a test that fails.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        let source = Source { name, text };
        let doc = source.parse()?;
        let mut fields = Fields::of_file(source, &doc);
        let description = match fields.take("description") {
            Some(node) => Some(node.text("what the policy does")?.into()),
            None => None,
        };
        let unknown_price = read_unknown_price(&mut fields)?;
        let on_short = rules::read_on_short(&mut fields)?.unwrap_or_default();
        let guards = rules::read_guards(fields.take("guard"))?;
        let chooses = rules::read_chooses(fields.take("choose"), on_short)?;
        let tests = sketch_read::read_tests(fields.take("test"))?;
        fields.finish()?;
        if chooses.is_empty() {
            return Err(source
                .whole("has no `[[choose]]` rule, so no request could be answered".to_owned()));
        }
        let policy = Self {
            name: PolicyName(Arc::from(name)),
            version: version_of(text),
            source: Arc::from(text),
            description,
            on_short,
            unknown_price,
            rules_on_pinned: chooses
                .iter()
                .any(|r| r.deals_with(FlagSignal::Pinned, &Pick::CallerPinned)),
            rules_on_named: chooses
                .iter()
                .any(|r| r.deals_with(FlagSignal::Named, &Pick::CallerNamed)),
            guards,
            chooses,
            tests: tests.len(),
            pinned_rule: RuleName(Arc::from("@pinned")),
            named_rule: RuleName(Arc::from("@named")),
        };
        tests.iter().try_for_each(|test| test.run(&policy))?;
        Ok(policy)
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &PolicyName {
        &self.name
    }

    /// Its version: the first 16 hex digits of the BLAKE3 hash of its bytes.
    #[must_use]
    pub const fn version(&self) -> &PolicyVersion {
        &self.version
    }

    /// Its text, byte for byte.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it says about itself.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// How many tests stand in its file; all of them passed.
    #[must_use]
    pub const fn tests(&self) -> usize {
        self.tests
    }

    /// Runs further tests: the `[[test]]`s of a decision table, a TOML file of nothing else.
    /// `name` is the table's name, for errors. Returns how many there are.
    ///
    /// # Errors
    /// The first test that fails or cannot be read, and where.
    pub fn run_tests(&self, name: &str, text: &str) -> Result<usize, PolicyError> {
        let source = Source { name, text };
        let doc = source.parse()?;
        let mut fields = Fields::of_file(source, &doc);
        let tests = sketch_read::read_tests(fields.take("test"))?;
        fields.finish()?;
        tests.iter().try_for_each(|test| test.run(self))?;
        Ok(tests.len())
    }

    /// Checks the policy against the configured routes.
    ///
    /// # Errors
    /// A rule that names a route which is not configured.
    pub fn check(&self, routes: &[KnownRoute]) -> Result<Vec<PolicyWarning>, PolicyError> {
        for (rule, id, place) in self.named_routes() {
            if !routes.iter().any(|route| route.id == *id) {
                let known: Vec<&str> = routes.iter().map(|route| route.id.as_str()).collect();
                let message =
                    format!("rule `{rule}` names the route `{id}`, which is not configured");
                let source = Source { name: &self.name.0, text: &self.source };
                return Err(place.error(source, message).suggest(id.as_str(), &known));
            }
        }
        let mut warnings = self.warnings();
        let can_reach = |pick: &Pick| match pick {
            Pick::Local => routes.iter().any(|route| route.local),
            Pick::Cloud => routes.iter().any(|route| !route.local),
            _ => true,
        };
        for rule in &self.chooses {
            if !rule.picks().iter().any(can_reach) && !rule.picks().is_empty() {
                let message = format!("rule `{}` chooses none of the configured routes", rule.name);
                warnings.push(PolicyWarning { line: rule.line, message });
            }
        }
        Ok(warnings)
    }

    /// What may not be meant, whatever routes are configured.
    #[must_use]
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        let always = self.chooses.iter().position(|rule| rule.when.is_empty());
        let Some(ix) = always else {
            let message = "it can happen that no rule matches, and then the request is refused; \
                           end with a `[[choose]]` rule without `when`";
            return vec![PolicyWarning { line: 0, message: message.to_owned() }];
        };
        let unreached = self.chooses.iter().skip(ix + 1);
        let warning = |rule: &Choose| {
            let message =
                format!("rule `{}` is never reached: a rule before it always matches", rule.name);
            PolicyWarning { line: rule.line, message }
        };
        unreached.map(warning).collect()
    }

    /// Every rule: its line, its name, its conditions and the routes that it is about.
    fn rules(&self) -> impl Iterator<Item = (usize, &RuleName, &[Condition], &[Pick])> {
        let guards = self.guards.iter().map(|g| (g.line, &g.name, g.when.as_slice(), g.picks()));
        let chooses = self.chooses.iter().map(|c| (c.line, &c.name, c.when.as_slice(), c.picks()));
        guards.chain(chooses)
    }

    /// Every budget that a rule looks at by its id: the rule's line and name, and the id.
    #[must_use]
    pub fn named_budgets(&self) -> Vec<(usize, &RuleName, &str)> {
        let mut found = Vec::new();
        for (line, rule, when, _) in self.rules() {
            for condition in when {
                condition.visit(&mut |test| {
                    if let Test::Number(_, NumberSignal::Budget(BudgetRef::Id(id), _), _) = test {
                        found.push((line, rule, &**id));
                    }
                });
            }
        }
        found
    }

    /// Every tag that a rule looks for: the rule's line and name, and the tag.
    #[must_use]
    pub fn named_tags(&self) -> Vec<(usize, &RuleName, &str)> {
        let mut found = Vec::new();
        for (line, rule, when, _) in self.rules() {
            for condition in when {
                condition.visit(&mut |test| {
                    if let Test::Tags(are) = test {
                        found.extend(are.wanted().iter().map(|tag| (line, rule, &**tag)));
                    }
                });
            }
        }
        found
    }

    /// Every route that a rule names.
    pub(crate) fn route_names(&self) -> impl Iterator<Item = &RouteId> {
        self.named_routes().into_iter().map(|(_, id, _)| id)
    }

    /// Every route that a rule names, and where.
    fn named_routes(&self) -> Vec<(&RuleName, &RouteId, &Place)> {
        let mut found = Vec::new();
        for (_, rule, when, picks) in self.rules() {
            let mut named: Vec<&Pick> = picks.iter().collect();
            for condition in when {
                condition.visit(&mut |test| {
                    if let Test::Route(RouteRef::Pick(pick), _) = test {
                        named.push(pick);
                    }
                });
            }
            found.extend(named.into_iter().filter_map(|pick| match pick {
                Pick::Named(id, place) => Some((rule, id, place)),
                _ => None,
            }));
        }
        found
    }
}

impl fmt::Display for PolicyWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.message)
    }
}

impl Guard {
    fn picks(&self) -> &[Pick] {
        match &self.action {
            GuardAction::Allow(picks) | GuardAction::Deny(picks) => picks,
            GuardAction::Refuse(_) => &[],
        }
    }
}

impl Choose {
    fn picks(&self) -> &[Pick] {
        match &self.action {
            ChooseAction::Routes(picks)
            | ChooseAction::Cheapest(picks)
            | ChooseAction::Fastest(picks)
            | ChooseAction::Hedge(picks)
            | ChooseAction::Weighted(picks, _) => picks,
            ChooseAction::Refuse(_) => &[],
        }
    }

    /// Whether the rule says something about named or pinned requests.
    fn deals_with(&self, flag: FlagSignal, pick: &Pick) -> bool {
        let mut reads = false;
        for condition in &self.when {
            condition.visit(&mut |test| {
                reads |= matches!(test, Test::Flag(_, signal, _) if *signal == flag);
            });
        }
        reads || self.picks().contains(pick)
    }
}

/// Whether a condition looks at the route under consideration.
fn reads_current_route(conditions: &[Condition]) -> bool {
    let mut reads = false;
    for condition in conditions {
        condition.visit(&mut |test| reads |= matches!(test, Test::Route(RouteRef::Current, _)));
    }
    reads
}

fn read_unknown_price(fields: &mut Fields<'_>) -> Result<UnknownPrice, PolicyError> {
    let Some(node) = fields.take("unknown_price") else { return Ok(UnknownPrice::default()) };
    match node.text("\"refuse\" or \"allow\"")? {
        "refuse" => Ok(UnknownPrice::Refuse),
        "allow" => Ok(UnknownPrice::Allow),
        word => {
            let error = node.value_error(format!("unknown answer `{word}`"));
            Err(error.suggest(word, &["refuse", "allow"]))
        }
    }
}

fn version_of(text: &str) -> PolicyVersion {
    let hex = blake3::hash(text.as_bytes()).to_hex();
    PolicyVersion(Arc::from(&hex[..16]))
}
