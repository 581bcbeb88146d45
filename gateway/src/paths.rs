//! A router that remembers its paths and the methods each takes.
//!
//! **Invariants:** a path answers every method it does not take with 405 and an `Allow` that names
//! those it does; what is listed is what is routed, because [`Paths::at`] does both: the OpenAPI
//! document is held against that list.

use crate::refusal::Refusal;
use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::IntoResponse as _,
    routing::MethodRouter,
};

/// A path and the methods it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The whole path, with its parameters as `{name}`.
    pub(crate) path: String,
    /// The methods, as an `Allow` header names them.
    pub(crate) allow: &'static str,
}

impl Listed {
    /// The methods that have a description of their own: that of HEAD follows from that of GET.
    pub(crate) fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.allow.split(", ").filter(|method| *method != "HEAD")
    }

    /// Whether it takes HEAD.
    pub(crate) fn takes_head(&self) -> bool {
        self.allow.split(", ").any(|method| method == "HEAD")
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Paths<S> {
    router: Router<S>,
    listed: Vec<Listed>,
}

impl<S: Clone + Send + Sync + 'static> Paths<S> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), listed: Vec::new() }
    }

    /// `methods` at `path`, which are those that `allow` names.
    pub(crate) fn at(mut self, path: &str, allow: &'static str, methods: MethodRouter<S>) -> Self {
        let methods = methods.fallback(move || async move { Refusal::WrongMethod(allow) });
        self.router = self.router.route(path, methods);
        // A parameter that spans slashes is written with a star, which only the router reads.
        self.listed.push(Listed { path: path.replace("{*", "{"), allow });
        self
    }

    /// All of `inner`, under `prefix`.
    pub(crate) fn below(mut self, prefix: &str, inner: Self) -> Self {
        self.router = self.router.nest(prefix, inner.router);
        self.listed.extend(below(prefix, inner.listed));
        self
    }

    /// All of `other` beside these.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.listed.extend(other.listed);
        self
    }

    /// The same, whose requests are first looked at by `refuse`.
    pub(crate) fn unless(mut self, refuse: fn(&Request) -> Result<(), Refusal>) -> Self {
        self.router =
            self.router.route_layer(from_fn(move |request: Request, next: Next| async move {
                match refuse(&request) {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => refusal.into_response(),
                }
            }));
        self
    }

    /// The same with what its handlers need.
    pub(crate) fn with_state<S2>(self, state: S) -> Paths<S2> {
        Paths { router: self.router.with_state(state), listed: self.listed }
    }

    /// The router.
    pub(crate) fn router(self) -> Router<S> {
        self.router
    }

    /// What it routes.
    pub(crate) fn listed(self) -> Vec<Listed> {
        self.listed
    }
}

/// The same paths under a prefix.
pub(crate) fn below(prefix: &str, listed: Vec<Listed>) -> Vec<Listed> {
    let longer = |Listed { path, allow }| Listed {
        path: format!("{prefix}{}", if path == "/" { "" } else { &path }),
        allow,
    };
    listed.into_iter().map(longer).collect()
}
