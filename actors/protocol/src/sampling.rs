//! Sampling parameters: each is declared once, with its documentation, type and default; its message is
//! `Sampling` in `proto/worker.proto`.

use std::sync::Arc;

use crate::token::Token;

/// Declares [`SamplingParams`] with its defaults.
macro_rules! sampling_params {
    ($( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr; )+) => {
        /// Parameters of the selection of each next token. Defaults are OpenAI's.
        #[derive(Clone, Debug, PartialEq)]
        pub struct SamplingParams {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            /// Values added to the logits of these tokens, each -100 to 100 (-100 bans, 100 forces).
            pub logit_bias: Arc<[(Token, f32)]>,
        }

        impl Default for SamplingParams {
            fn default() -> Self {
                Self { $($field: $default,)+ logit_bias: Arc::default() }
            }
        }
    };
}

/// Passes the list of parameters to a macro.
macro_rules! with_sampling_params {
    ($declare:ident) => {
        $declare! {
            /// 0 is greedy; OpenAI allows 0 to 2.
            temperature: f32 = 1.0;
            /// Nucleus: the smallest set of tokens whose probability reaches this; 1 is off. In (0, 1], 0 is greedy.
            top_p: f32 = 1.0;
            /// Only the k most likely tokens; 0 is off.
            top_k: u32 = 0;
            /// Only tokens at least this fraction as likely as the most likely one; 0 is off.
            min_p: f32 = 0.0;
            /// Locally typical sampling: of the tokens whose surprise is nearest to the expected one, the fewest whose
            /// probability reaches this; 1 is off. In (0, 1]. (Meister et al. 2022, <https://arxiv.org/abs/2202.00666>.)
            typical_p: f32 = 1.0;
            /// Divides the positive and multiplies the negative logits of tokens that the prompt or the answer has; 1 is
            /// off. In (0, 2]. (Keskar et al. 2019, <https://arxiv.org/abs/1909.05858>; transformers' `repetition_penalty`.)
            repeat_penalty: f32 = 1.0;
            /// OpenAI's presence penalty over the generated tokens, -2 to 2.
            presence_penalty: f32 = 0.0;
            /// OpenAI's frequency penalty over the generated tokens, -2 to 2.
            frequency_penalty: f32 = 0.0;
            /// Tokens of the answer before which neither its end nor a stop text counts.
            min_tokens: u32 = 0;
            /// `true` if the tokens that end an answer are never chosen.
            ignore_eos: bool = false;
            /// Seed. The draw for position *i* depends on (seed, i) alone, so that a resumed request draws the same.
            seed: u64 = 0;
        }
    };
}

pub(crate) use with_sampling_params;

with_sampling_params!(sampling_params);
