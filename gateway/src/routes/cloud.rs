//! A route to a cloud provider that speaks OpenAI's format.
use super::{Fault, FaultKind};
use crate::{
    config::CloudConfig,
    wire::{ChatRequest, Event},
};
use tokio::sync::OwnedSemaphorePermit;

/// A route to a cloud provider.
#[derive(Debug)]
pub struct CloudRoute {
    config: CloudConfig,
}

/// A place among the requests in flight to one route; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// An answer whose head has arrived. Dropping it cancels the request upstream.
#[derive(Debug)]
pub struct CloudAnswer {
    status: u16,
}

impl CloudRoute {
    /// A route by its configuration; opens no connection.
    ///
    /// # Errors
    /// What is wrong with the configuration, in the operator's terms.
    pub fn new(config: CloudConfig) -> Result<Self, String> {
        Ok(Self { config })
    }

    /// Waits for a place among the requests in flight.
    ///
    /// # Errors
    /// [`FaultKind::Busy`].
    pub async fn place(&self) -> Result<Place, Fault> {
        Err(Fault::new(FaultKind::Busy, "not yet"))
    }

    /// Sends the request and waits for the head of a good answer.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn start(
        &self,
        place: Place,
        request: &ChatRequest,
        output_cap: u64,
    ) -> Result<CloudAnswer, Fault> {
        let _ = (place, request, output_cap, &self.config);
        Err(Fault::new(FaultKind::Busy, "not yet"))
    }

    /// Requests that wait for a place.
    #[must_use]
    pub fn queued(&self) -> u32 {
        0
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        0
    }
}

impl CloudAnswer {
    /// The provider's status, a 2xx.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The next event; `None` after the last. After an error there is nothing more.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        None
    }
}
