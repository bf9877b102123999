//! The wall around llama.cpp: the only place with FFI types and unsafe code.
//!
//! Model and vocabulary go through llama-cpp-2. The context is driven through llama-cpp-sys-2, because
//! llama-cpp-2 cannot change a context's thread count between decodes and its batch can be overfilled.

#![allow(unsafe_code)]

mod buffers;
mod embedding;
mod heap;
mod memory;
mod streams;

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt::Write as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use jan_protocol::types::Token;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_sys_2 as sys;

pub use self::buffers::Buffers;
pub use self::heap::give_back_free_pages;
use self::memory::SequenceIds;
pub use self::memory::{Memory, SavedState};

/// One token of a decode step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    /// The token to read.
    pub token: Token,
    /// Its position in its sequence, from 0.
    pub position: u32,
    /// The llama.cpp sequence it belongs to.
    pub slot: u16,
    /// `true` if its logits are wanted.
    pub logits: bool,
}

/// The reason why the engine refused.
#[derive(Debug, thiserror::Error)]
pub enum LlamaError {
    /// The model file cannot be used.
    #[error("{0}")]
    Load(String),
    /// No context could be made, mostly for lack of memory.
    #[error("cannot create a context of {cells} KV cells ({kv_mib} MiB): {reason}")]
    Context {
        /// Cells asked for.
        cells: u32,
        /// Memory they take.
        kv_mib: u64,
        /// The log of llama.cpp.
        reason: String,
    },
    /// A sequence's state could not be copied out of the context or put back; it is not to be trusted any more.
    #[error("llama.cpp could not {action} the state of a sequence: {reason}")]
    State {
        /// The attempted action.
        action: &'static str,
        /// The log of llama.cpp.
        reason: String,
    },
    /// Too many steps of constrained answers never end, each on a thread that cannot be stopped.
    #[error("too many threads compute what constrained answers leave open, without an end")]
    Overrun,
    /// `llama_decode` failed; the context is not to be trusted any more.
    #[error("llama_decode returned {code}: {reason}")]
    Decode {
        /// Its return code.
        code: i32,
        /// The log of llama.cpp.
        reason: String,
    },
}

impl LlamaError {
    fn state(action: &'static str) -> Self {
        Self::State { action, reason: take_logged_errors() }
    }
}

/// Errors that llama.cpp logged since they were last taken: it reports reasons nowhere else.
static LOGGED_ERRORS: Mutex<String> = Mutex::new(String::new());

fn take_logged_errors() -> String {
    let text = std::mem::take(&mut *LOGGED_ERRORS.lock().unwrap_or_else(PoisonError::into_inner));
    let text = text.trim().replace('\n', "; ");
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

/// Forwards llama.cpp's log to tracing and keeps its errors.
extern "C" fn log_callback(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line = text.trim_end();
    if line.is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => {
            tracing::warn!(target: "llama", "{line}");
            let mut errors = LOGGED_ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
            if errors.len() < 2000 {
                let _ = writeln!(errors, "{line}");
            }
        }
        sys::GGML_LOG_LEVEL_WARN => tracing::debug!(target: "llama", "{line}"),
        _ => {
            buffers::note(line);
            tracing::trace!(target: "llama", "{line}");
        }
    }
}

/// llama.cpp, initialised once a process.
#[derive(Debug)]
pub struct Backend(LlamaBackend);

impl Backend {
    /// # Errors
    /// Fails if it was initialised before.
    pub fn init() -> Result<Self, LlamaError> {
        // SAFETY: the callback is a static function without user data.
        unsafe {
            sys::llama_log_set(Some(log_callback), std::ptr::null_mut());
            sys::ggml_log_set(Some(log_callback), std::ptr::null_mut());
        }
        LlamaBackend::init().map(Self).map_err(|error| LlamaError::Load(error.to_string()))
    }
}

/// The features of the processor that the kernels use.
pub fn system_info() -> String {
    // SAFETY: llama.cpp returns a static, NUL-terminated string.
    unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().into_owned()
}

/// A model: weights, vocabulary and metadata. Immutable, shared by threads.
#[derive(Debug)]
pub struct Model {
    inner: LlamaModel,
    /// Bytes of the weights that lie in the memory of a device.
    device_bytes: u64,
}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// [`LlamaError::Load`] with llama.cpp's message on the file.
    ///
    /// `reproducible` leaves out the kernels that compute a token's products in another order beside others than alone
    /// (`CPU_REPACK`); those for eight and more rows of K-quants are left out by `GGML_CPU_TILED_MM=0`.
    pub fn load(
        backend: &Backend,
        path: &Path,
        gpu_layers: u32,
        reproducible: bool,
    ) -> Result<Self, LlamaError> {
        let _ = (take_logged_errors(), buffers::take_noted());
        let inner = if reproducible {
            Self::load_without_repacking(path, gpu_layers)?
        } else {
            let params = LlamaModelParams::default().with_n_gpu_layers(gpu_layers);
            LlamaModel::load_from_file(&backend.0, path, &params)
                .map_err(|error| LlamaError::Load(format!("{error} ({})", take_logged_errors())))?
        };
        Ok(Self { inner, device_bytes: buffers::take_noted().device })
    }

    /// llama-cpp-2 has no setting for it.
    fn load_without_repacking(path: &Path, gpu_layers: u32) -> Result<LlamaModel, LlamaError> {
        let shown = path.display();
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| LlamaError::Load(format!("{shown} has a NUL byte in its name")))?;
        // SAFETY: plain data from a function without preconditions.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = i32::try_from(gpu_layers).unwrap_or(i32::MAX);
        params.use_extra_bufts = false;
        // SAFETY: llama.cpp is initialised (there is a `Backend`), and the name outlives the call.
        let raw = unsafe { sys::llama_model_load_from_file(name.as_ptr(), params) };
        let raw = NonNull::new(raw).ok_or_else(|| {
            LlamaError::Load(format!("{shown} cannot be loaded ({})", take_logged_errors()))
        })?;
        // SAFETY: as in `as_ptr`, the other way round; no other code frees the model.
        Ok(unsafe { (&raw const raw).cast::<LlamaModel>().read() })
    }

    fn as_ptr(&self) -> *mut sys::llama_model {
        // SAFETY: `LlamaModel` and the pointer type inside it are both `repr(transparent)` over one
        // non-null `llama_model` pointer (llama-cpp-2 pinned at 0.1.160), so the model's bytes are the pointer.
        unsafe { std::ptr::from_ref(&self.inner).cast::<*mut sys::llama_model>().read() }
    }

    /// The context length that the model was trained on, in tokens.
    pub fn trained_context(&self) -> u32 {
        self.inner.n_ctx_train()
    }

    /// Entries of the vocabulary.
    pub fn vocabulary(&self) -> u32 {
        u32::try_from(self.inner.n_vocab()).unwrap_or(0)
    }

    fn has_decoder(&self) -> bool {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_has_decoder(self.as_ptr()) }
    }

    /// Bytes that one KV cell takes at F16.
    pub fn kv_bytes_per_cell(&self) -> u64 {
        let heads = u64::from(self.inner.n_head().max(1));
        let embedding = u64::try_from(self.inner.n_embd()).unwrap_or(0);
        let architecture = self.metadata("general.architecture").unwrap_or_default();
        let of_head = |name: &str| {
            let length = self.metadata(&format!("{architecture}.attention.{name}_length"));
            length.and_then(|length| length.parse().ok()).unwrap_or(embedding / heads)
        };
        let width = (of_head("key") + of_head("value")) * u64::from(self.inner.n_head_kv());
        u64::from(self.inner.n_layer()) * width * 2
    }

    /// Bytes of the weights.
    pub fn size(&self) -> u64 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_size(self.as_ptr()) }
    }

    /// Bytes of the weights that lie in the memory of a device.
    pub fn device_bytes(&self) -> u64 {
        self.device_bytes
    }

    /// A metadata value of the GGUF as text.
    pub fn metadata(&self, key: &str) -> Option<String> {
        self.inner.meta_val_str(key).ok()
    }

    /// The tokens of a text. `special` texts such as `<|im_end|>` become their tokens; with `add_bos` the
    /// model's BOS is put in front where the model wants one.
    pub fn tokenize(&self, text: &str, add_bos: bool) -> Vec<Token> {
        self.inner.vocab().tokenize(text.as_bytes(), add_bos, true).into_iter().map(|t| t.0).collect()
    }

    /// The tokens of a text as it stands: text that reads like a special token is text too, and no BOS is added.
    pub fn tokenize_plain(&self, text: &str) -> Vec<Token> {
        self.inner.vocab().tokenize(text.as_bytes(), false, false).into_iter().map(|t| t.0).collect()
    }

    /// The texts that are read as control tokens wherever those are looked for.
    pub fn control_texts(&self) -> Vec<String> {
        let vocab = self.inner.vocab();
        let is_control = |token: &LlamaToken| {
            let attributes = vocab.attr(*token);
            attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown)
        };
        let text = |token| Some(vocab.text(token)?.to_string_lossy().into_owned());
        vocab.tokens().filter(is_control).filter_map(text).filter(|text| !text.is_empty()).collect()
    }

    /// The bytes that a token stands for; empty for control tokens.
    pub fn piece(&self, token: Token) -> Vec<u8> {
        self.inner.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    /// The bytes that a token stands for, control tokens included.
    pub fn special_piece(&self, token: Token) -> Vec<u8> {
        self.inner.vocab().token_to_piece(LlamaToken(token), true, None)
    }

    /// A token's text, control tokens included; empty when there is no such token.
    pub fn special_text(&self, token: Token) -> String {
        if token < 0 {
            return String::new();
        }
        String::from_utf8_lossy(&self.inner.vocab().token_to_piece(LlamaToken(token), true, None))
            .into_owned()
    }

    /// BOS, or a negative number.
    pub fn bos(&self) -> Token {
        self.inner.vocab().bos().0
    }

    /// EOS, or a negative number.
    pub fn eos(&self) -> Token {
        self.inner.vocab().eos().0
    }

    /// The tokens in front of a gap's prefix, in front of its suffix, and where the filling begins; `None` where the
    /// model has none.
    pub fn infill_tokens(&self) -> Option<[Token; 3]> {
        let vocab = self.inner.vocab();
        let tokens = [vocab.fim_pre().0, vocab.fim_suf().0, vocab.fim_mid().0];
        tokens.iter().all(|&token| token >= 0).then_some(tokens)
    }

    /// Returns `true` if a token ends the generation.
    pub fn is_end_of_generation(&self, token: Token) -> bool {
        self.inner.vocab().is_eog(LlamaToken(token))
    }
}

/// Sizes of a context.
#[derive(Clone, Copy, Debug)]
pub struct ContextSizes {
    /// KV cells, shared by all sequences.
    pub cells: u32,
    /// Sequence ids.
    pub slots: u16,
    /// Maximum number of tokens of one decode.
    pub batch: u32,
    /// Maximum number of logits of one decode.
    pub outputs: u32,
    /// Compute threads at first.
    pub threads: usize,
    /// `true` if tokens' embeddings are wanted, then of all of them, rather than logits.
    pub embeddings: bool,
    /// `true` if logits are to be the same to the last bit however a sequence is read and regardless of other running sequences.
    /// Given that [`Model::load`] was called with the same setting, all depends on attention: on a CPU, llama.cpp sums it up in
    /// one pass over the cells for values of another type than the keys', but in tiles of 64 cells for batches of 64 tokens, and
    /// in parts for a single token, if both are F16 (`ggml_compute_forward_flash_attn_ext_f16`). The cells stay in place until
    /// [`Context::clear`], so that they lie in the order of their positions.
    pub reproducible: bool,
    /// `true` if every slot has a stream of cells of its own, `cells` each; `false` if all share `cells`.
    pub streams: bool,
}

/// A llama.cpp context with one unified KV cache, or with a stream of cells for each slot.
#[derive(Debug)]
pub struct Context<'model> {
    raw: NonNull<sys::llama_context>,
    model: &'model Model,
    sizes: ContextSizes,
    ids: SequenceIds,
    threads: usize,
    /// The buffers that it was made with.
    buffers: Buffers,
    /// Maximum number of logits of one decode so far.
    most_outputs: u32,
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequence_counts: Vec<i32>,
    sequences: Vec<sys::llama_seq_id>,
    sequence_pointers: Vec<*mut sys::llama_seq_id>,
    logits: Vec<i8>,
    /// Room for states that are moved here.
    moved: Vec<u8>,
}

impl<'model> Context<'model> {
    /// # Errors
    /// [`LlamaError::Context`], mostly for lack of memory.
    pub fn new(model: &'model Model, memory: Memory, sizes: ContextSizes) -> Result<Self, LlamaError> {
        let _ = (take_logged_errors(), buffers::take_noted());
        let ids = SequenceIds { slots: sizes.slots, memory, reproducible: sizes.reproducible };
        let threads = i32::try_from(sizes.threads).unwrap_or(1);
        // SAFETY: plain data from a function without preconditions.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = if sizes.streams { sizes.cells * u32::from(sizes.slots) } else { sizes.cells };
        params.n_batch = sizes.batch;
        params.n_ubatch = sizes.batch;
        params.n_seq_max = u32::from(ids.count());
        if sizes.reproducible {
            params.type_v = sys::GGML_TYPE_BF16;
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
        }
        // llama.cpp wants room for one output a sequence id.
        params.n_outputs_max = sizes.outputs.max(params.n_seq_max);
        params.n_threads = threads;
        params.n_threads_batch = threads;
        params.kv_unified = !sizes.streams;
        params.swa_full = true;
        params.no_perf = true;
        params.embeddings = sizes.embeddings;
        if sizes.embeddings {
            // Pooled by us, so that long inputs can be read piece by piece.
            params.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
        }
        // SAFETY: the model is alive; no other context is made from it at the same time (one thread a worker does so).
        let raw = unsafe { sys::llama_init_from_model(model.as_ptr(), params) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(LlamaError::Context {
                cells: params.n_ctx,
                kv_mib: u64::from(params.n_ctx) * model.kv_bytes_per_cell() / (1 << 20),
                reason: take_logged_errors(),
            });
        };
        let batch = sizes.batch as usize;
        Ok(Self {
            raw,
            model,
            sizes,
            ids,
            threads: sizes.threads,
            buffers: buffers::take_noted(),
            most_outputs: params.n_seq_max,
            tokens: Vec::with_capacity(batch),
            positions: Vec::with_capacity(batch),
            sequence_counts: Vec::with_capacity(batch),
            sequences: Vec::with_capacity(batch),
            sequence_pointers: Vec::with_capacity(batch),
            logits: Vec::with_capacity(batch),
            moved: Vec::new(),
        })
    }

    /// Computes one step with this many threads.
    ///
    /// # Errors
    /// [`LlamaError::Decode`]: the context is not to be used any more.
    pub fn decode(&mut self, entries: &[BatchEntry], threads: usize) -> Result<(), LlamaError> {
        assert!(
            !entries.is_empty() && entries.len() <= self.sizes.batch as usize,
            "a step of {} tokens does not fit a batch of {}",
            entries.len(),
            self.sizes.batch
        );
        if threads != self.threads {
            let n = i32::try_from(threads.max(1)).unwrap_or(1);
            // SAFETY: the context is alive and no decode is running.
            unsafe { sys::llama_set_n_threads(self.raw.as_ptr(), n, n) };
            self.threads = threads;
        }
        self.tokens.clear();
        self.positions.clear();
        self.sequence_counts.clear();
        self.sequences.clear();
        self.sequence_pointers.clear();
        self.logits.clear();
        for entry in entries {
            let before = self.sequences.len();
            self.sequences.extend(self.ids.of(entry.slot));
            self.tokens.push(entry.token);
            self.positions.push(sys::llama_pos::try_from(entry.position).unwrap_or(sys::llama_pos::MAX));
            self.sequence_counts.push(i32::try_from(self.sequences.len() - before).unwrap_or(1));
            // llama.cpp wants embeddings of all tokens or none.
            self.logits.push(i8::from(entry.logits || self.sizes.embeddings));
        }
        let outputs = self.logits.iter().filter(|&&wanted| wanted != 0).count();
        self.most_outputs = self.most_outputs.max(u32::try_from(outputs).unwrap_or(u32::MAX));
        for of_entry in self.sequences.chunks_mut(self.ids.of(0).count()) {
            self.sequence_pointers.push(of_entry.as_mut_ptr());
        }
        let batch = sys::llama_batch {
            n_tokens: i32::try_from(entries.len()).unwrap_or(i32::MAX),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.sequence_counts.as_mut_ptr(),
            seq_id: self.sequence_pointers.as_mut_ptr(),
            logits: self.logits.as_mut_ptr(),
        };
        // SAFETY: every array has `n_tokens` entries and lives until the call returns.
        let code = unsafe {
            if self.model.has_decoder() {
                sys::llama_decode(self.raw.as_ptr(), batch)
            } else {
                sys::llama_encode(self.raw.as_ptr(), batch)
            }
        };
        if code == 0 { Ok(()) } else { Err(LlamaError::Decode { code, reason: take_logged_errors() }) }
    }

    /// The logits of a batch entry that asked for them in the last decode, one a vocabulary entry.
    pub fn logits(&mut self, index: usize) -> &mut [f32] {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        // SAFETY: the context is alive; a bad index gives null, which is checked.
        let row = unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), index) };
        assert!(!row.is_null(), "batch entry {index} has no logits");
        // SAFETY: llama.cpp's row has one float a vocabulary entry and lives until the next decode, which
        // needs `&mut self`, as does another slice of them.
        unsafe { std::slice::from_raw_parts_mut(row, self.model.vocabulary() as usize) }
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is alive and not used afterwards.
        unsafe { sys::llama_free(self.raw.as_ptr()) }
    }
}
