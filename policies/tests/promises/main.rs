//! What this crate promises: one test binary, a module per promise.

#[cfg(test)]
mod deciding;
#[cfg(test)]
mod decision_tables;
#[cfg(test)]
mod explaining;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod loading;
#[cfg(test)]
mod money;
#[cfg(test)]
mod prices;
#[cfg(test)]
mod replaying;
