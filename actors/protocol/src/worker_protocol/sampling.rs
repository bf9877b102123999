//! Sampling parameters on the wire: the same fields, by the list of their declaration.

use std::sync::Arc;

use super::Sampling;
use crate::sampling::{SamplingParams, with_sampling_params};

/// Declares the conversions from and to the wire.
macro_rules! conversions {
    ($( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr; )+) => {
        impl From<&SamplingParams> for Sampling {
            fn from(params: &SamplingParams) -> Self {
                Self { $($field: params.$field,)+ }
            }
        }

        impl From<Sampling> for SamplingParams {
            fn from(message: Sampling) -> Self {
                // `logit_bias` is a part of its own, which several requests share.
                Self { $($field: message.$field,)+ logit_bias: Arc::default() }
            }
        }
    };
}

with_sampling_params!(conversions);
