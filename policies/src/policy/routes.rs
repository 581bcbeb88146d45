//! Lists of routes in policies: names, or selectors that stand for whatever the operator configured.
//!
//! **Invariant:** a list expands in its own order, a selector in the order of the configuration, and
//! a route appears once, where it came first.

use crate::{
    Facts, RouteFacts, RouteId,
    file::{FileError, Node, Place},
};
use std::fmt;

/// One element of a route list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The route of this name, and where it is named.
    Named(RouteId, Place),
    /// `@local`: routes in this process.
    Local,
    /// `@cloud`: routes outside it.
    Cloud,
    /// `@named`: routes whose alias the caller wrote as `model`.
    CallerNamed,
    /// `@pinned`: the route whose own name the caller wrote as `model`.
    CallerPinned,
    /// `@all`: every configured route.
    All,
}

/// The routes that a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteRef {
    /// The one a guard is looking at.
    Current,
    /// Those of a name or selector; the condition must hold for every one of them.
    Pick(Pick),
}

/// Selectors as they are written.
const SELECTORS: [(&str, Pick); 5] = [
    ("@local", Pick::Local),
    ("@cloud", Pick::Cloud),
    ("@named", Pick::CallerNamed),
    ("@pinned", Pick::CallerPinned),
    ("@all", Pick::All),
];

// === impl Pick ===

impl Pick {
    /// Reads a route's name or a selector.
    pub(crate) fn read(text: &str, node: &Node<'_>) -> Result<Self, FileError> {
        if !text.starts_with('@') {
            if text.is_empty() {
                return Err(node.value_error("a route's name is empty"));
            }
            return Ok(Self::Named(RouteId::new(text), node.place()));
        }
        let known = SELECTORS.iter().find(|(name, _)| *name == text);
        known.map(|(_, pick)| pick.clone()).ok_or_else(|| {
            let names: Vec<&str> = SELECTORS.iter().map(|(name, _)| *name).collect();
            node.value_error(format!("unknown selector `{text}`")).suggest(text, &names)
        })
    }

    /// Reads a list that is not empty.
    pub(crate) fn read_list(node: &Node<'_>) -> Result<Vec<Self>, FileError> {
        let items = node.array("a list of routes such as [\"edge\", \"@cloud\"]")?;
        if items.is_empty() {
            return Err(node.value_error("lists no route"));
        }
        items.iter().map(|item| Self::read(item.text("a route or selector")?, item)).collect()
    }

    /// Whether it stands for this route.
    pub(crate) fn covers(&self, route: &RouteFacts, facts: &Facts) -> bool {
        match self {
            Self::Named(id, _) => *id == route.id,
            Self::Local => route.local,
            Self::Cloud => !route.local,
            Self::CallerNamed => facts.request.named.contains(&route.id),
            Self::CallerPinned => facts.request.pinned.as_ref() == Some(&route.id),
            Self::All => true,
        }
    }

    /// The routes' places in `facts.routes`, each once, for those that `keep` keeps.
    pub(crate) fn expand(
        picks: &[Self],
        facts: &Facts,
        keep: impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let mut places = Vec::with_capacity(facts.routes.len());
        for pick in picks {
            for (ix, route) in facts.routes.iter().enumerate() {
                if keep(ix) && pick.covers(route, facts) && !places.contains(&ix) {
                    places.push(ix);
                }
            }
        }
        places
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(id, _) => id.fmt(f),
            selector => {
                let found = SELECTORS.iter().find(|(_, pick)| pick == selector);
                f.write_str(found.map_or("@", |(name, _)| name))
            }
        }
    }
}
