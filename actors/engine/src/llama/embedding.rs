//! The part of contexts for embeddings beside decoding.

use super::{Context, Model, sys};

impl Model {
    /// Numbers of an embedding.
    pub fn embedding_length(&self) -> usize {
        // SAFETY: the model is alive.
        usize::try_from(unsafe { sys::llama_model_n_embd_out(self.as_ptr()) }).unwrap_or(0)
    }

    /// Returns whether it is a cross-encoder: what it makes of a text's tokens is meant for a classifier (`LLAMA_POOLING_TYPE_RANK`).
    pub fn scores_pairs(&self) -> bool {
        let architecture = self.metadata("general.architecture").unwrap_or_default();
        self.metadata(&format!("{architecture}.pooling_type")).as_deref() == Some("4")
    }
}

impl Context<'_> {
    fn has_memory(&self) -> bool {
        !self.memory().is_null()
    }

    /// Returns `true` if text can be generated: each token is made of those before it, and these are remembered. Encoders such as
    /// BERT look at all of an input at once.
    pub fn can_generate(&self) -> bool {
        // SAFETY: the context is alive.
        let causal = unsafe { sys::llama_get_causal_attn(self.raw.as_ptr()) };
        self.model.has_decoder() && self.has_memory() && causal
    }

    /// Forgets the tokens that a slot has read.
    pub fn forget(&mut self, slot: u16) {
        if self.has_memory() {
            for id in self.ids.of(slot) {
                // SAFETY: the context is alive and the id is in range. Whole sequences can be removed in all memories.
                unsafe { sys::llama_memory_seq_rm(self.memory(), id, -1, -1) };
            }
        }
    }

    /// The embedding of a batch entry of the last decode.
    pub fn embedding(&self, index: usize) -> &[f32] {
        let at = i32::try_from(index).unwrap_or(i32::MAX);
        // SAFETY: the context is alive; a bad index gives null, which is checked.
        let row = unsafe { sys::llama_get_embeddings_ith(self.raw.as_ptr(), at) };
        assert!(!row.is_null(), "batch entry {index} has no embedding");
        // SAFETY: llama.cpp's row has `n_embd_out` floats and lives until the next decode, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(row, self.model.embedding_length()) }
    }
}
