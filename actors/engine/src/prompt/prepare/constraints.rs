//! The compiled constraints of an answer.

use std::sync::{Arc, PoisonError};

use jan_protocol::report::Rejection;
use jan_protocol::types::Constraint;

use super::{Draft, Preparer};
use crate::decode::constraint::held::ConstraintsMemory;
use crate::decode::constraint::{Grammars, Guide};
use crate::llama::Model;
use crate::vetting::{Refusal, VettingSettings};

/// The constraints that have to be compiled for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToCompile {
    /// No constraint.
    Nothing,
    /// Its constraint has been compiled or refused lately, which takes no time again.
    Known,
    /// A constraint, or the form of its calls.
    Something,
}

impl Preparer {
    /// Lets a helper compile constraints first.
    pub fn vet(&mut self, settings: VettingSettings) {
        self.vetting = Some(settings);
    }

    /// Returns the constraints that have to be compiled before this request can run.
    pub fn to_compile(&self, draft: &Draft) -> ToCompile {
        if draft.request.tools.as_ref().is_some_and(|tools| tools.required || tools.guided) {
            return ToCompile::Something;
        }
        let begun_calls;
        let constraint = match (&draft.request.constraint, &draft.request.tools) {
            (Some(constraint), _) => &**constraint,
            (None, Some(tools)) => {
                begun_calls = self.begun_calls_of(tools);
                let Some(constraint) = &begun_calls else { return ToCompile::Nothing };
                constraint
            }
            (None, None) => return ToCompile::Nothing,
        };
        let grammars = self.grammars.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match grammars.is_some_and(|grammars| grammars.knows(constraint)) {
            true => ToCompile::Known,
            false => ToCompile::Something,
        }
    }

    /// The memory of constraints, once there were any ([`Grammars::memory`]); it waits for nobody.
    pub fn constraints_memory(&self, constraint_kib: u64) -> Option<ConstraintsMemory> {
        // Whoever has locked it is reading the vocabulary.
        let grammars = self.grammars.try_lock().ok()?.clone();
        Some(grammars?.memory(constraint_kib))
    }

    /// Gives back what new constraints would need and nothing else does.
    pub fn rest(&self) {
        // Whoever has locked it is about to compile something.
        let grammars = self.grammars.try_lock().ok().and_then(|grammars| grammars.clone());
        if let Some(grammars) = grammars {
            grammars.end_helper();
        }
    }

    /// The guide of an answer at its beginning.
    pub(super) fn guide(&self, model: &Arc<Model>, constraint: &Constraint) -> Result<Guide, Rejection> {
        let grammars = {
            let mut grammars = self.grammars.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *grammars {
                Some(grammars) => Arc::clone(grammars),
                none => {
                    let new = Grammars::new(Arc::clone(model), self.vetting.clone());
                    Arc::clone(none.insert(Arc::new(new.map_err(Rejection::Internal)?)))
                }
            }
        };
        grammars.guide(constraint).map_err(|refusal| match refusal {
            Refusal::Malformed(message) => Rejection::MalformedConstraint(message),
            Refusal::Invalid(message) => Rejection::InvalidConstraint(message),
            Refusal::TooExpensive(message) => Rejection::ConstraintTooExpensive(message),
            Refusal::Unavailable(message) => Rejection::Unavailable(message),
        })
    }
}
