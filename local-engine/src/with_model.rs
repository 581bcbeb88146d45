//! The scheduler together with the model that its device borrows, as one thing that can be handed to
//! another thread: the model is freed after what borrows it.

#![expect(clippy::mem_forget, reason = "the macro's own way to build it without a second drop")]

use std::sync::Arc;

use crate::{
    llama::{LlamaDevice, Model},
    scheduler::Scheduler,
};

/// What a scheduler borrows.
pub(crate) struct Models {
    pub(crate) model: Arc<Model>,
    /// The one that drafts for it, where there is one.
    pub(crate) draft: Option<Model>,
}

type OnModel<'m> = Scheduler<LlamaDevice<'m>>;

self_cell::self_cell!(
    /// A scheduler and the models it borrows.
    pub(crate) struct WithModel {
        owner: Models,
        #[not_covariant]
        dependent: OnModel,
    }
);
