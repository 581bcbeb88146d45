//! File descriptors: how many this process may have open, and whether an error says that none is left.
//!
//! Every connection and every segment of the journal takes one. Most systems set the soft limit to 1,024
//! for the sake of old programs that use select(2), and leave it to each program to go up to the hard one.

use crate::config::{Config, RouteSource};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit, setrlimit},
};
use std::{error::Error, io};

/// What is open beside connections: the ledger, the models, standard streams, what is read once.
const OTHERS: u64 = 128;

/// Raises the soft limit to the hard one. Returns what holds then; `None`: no limit.
pub(crate) fn raise() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not allowed the limit stays, and whoever asks is told which holds.
    let _raised = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current
}

/// What an operator should know where so many descriptors are too few for what is configured.
pub(crate) fn too_few(limit: Option<u64>, config: &Config) -> Option<String> {
    let limit = limit?;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let listeners = if config.admin_listen.is_some() { 2 } else { 1 };
    let connections = count(config.limits.connections_max).saturating_mul(listeners);
    let upstream = config.routes.iter().fold(0_u64, |sum, route| match &route.source {
        RouteSource::Cloud(cloud) => sum.saturating_add(count(cloud.in_flight_max)),
        RouteSource::Local(_) => sum,
    });
    let needed = connections.saturating_add(upstream).saturating_add(OTHERS);
    (needed > limit).then(|| {
        format!(
            "this process may have {limit} descriptors open, and needs up to {needed}: \
             {connections} for [server] connections_max, {upstream} for the routes' \
             in_flight_max, {OTHERS} for itself; raise its hard limit (ulimit -Hn, LimitNOFILE=) \
             or lower those"
        )
    })
}

/// Whether it failed because there is no descriptor left, of this process or of the machine.
pub(crate) fn none_left(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let found = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
        if matches!(found, Some(Errno::MFILE | Errno::NFILE)) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Surroundings};
    use std::path::Path;

    fn config(text: &str) -> Config {
        let route = "[routes.c]\nkind = \"openai\"\nprovider = \"p\"\nbase_url = \"https://h/v1\"\n\
                     model = \"m\"\nin_flight_max = 100\n";
        let (environment, now_s) = (Environment::Needed, 1_795_305_600);
        let surroundings = Surroundings { lookup: &|_| None, environment, now_s };
        let text = format!("{text}\n{route}");
        Config::parse(&text, Path::new("tollgate.toml"), surroundings).unwrap()
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let raised = raise();
        assert_eq!(raised, getrlimit(Resource::Nofile).maximum);
    }

    #[test]
    fn limits_that_do_not_fit_the_descriptors_are_told() {
        let one = config("[server]\nconnections_max = 1000");
        assert_eq!(too_few(None, &one), None);
        assert_eq!(too_few(Some(1_228), &one), None);
        let said = too_few(Some(1_227), &one).unwrap();
        assert!(said.contains("1227") && said.contains("1228"), "{said}");
        let two = config("[server]\nconnections_max = 1000\n[admin]\nlisten = \"127.0.0.1:8656\"");
        assert!(too_few(Some(2_227), &two).is_some());
    }

    #[test]
    fn an_error_says_that_none_is_left_wherever_in_its_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("no connection")]
        struct Outer(#[source] io::Error);
        let of = |errno: Errno| Outer(errno.into());
        assert!(none_left(&of(Errno::MFILE)) && none_left(&of(Errno::NFILE)));
        assert!(!none_left(&of(Errno::CONNREFUSED)) && !none_left(&Outer(io::Error::other("24"))));
    }
}
