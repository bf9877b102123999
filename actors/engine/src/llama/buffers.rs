//! The memory of models and contexts.
//!
//! llama.cpp gives the sizes of its buffers in its log alone (a function for it, `llama_get_memory_breakdown`, returns a C++ map
//! and so cannot be called from here), with lines such as
//!
//! ```text
//! llama_kv_cache:        CPU KV buffer size =   360.00 MiB
//! sched_reserve:        CPU compute buffer size =   105.88 MiB
//! ```
//!
//! Should that change, cells and logits are still counted, by what they need to have.

use std::sync::{Mutex, PoisonError};

use super::{Context, Memory};

/// Bytes of buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// KV cells, or states of a fixed size.
    pub cells: u64,
    /// Intermediate results.
    pub compute: u64,
    /// Logits and embeddings of a step.
    pub outputs: u64,
    /// Weights.
    pub weights: u64,
    /// The part of all of these that lies in a device's memory.
    pub device: u64,
}

impl Buffers {
    /// All but the weights.
    #[must_use]
    pub const fn of_context(&self) -> u64 {
        self.cells + self.compute + self.outputs
    }

    /// Adds the buffer that a line of the log is about, if it is about one.
    fn add(&mut self, line: &str) {
        let Some((buffer, size)) = line.split_once(" buffer size = ") else { return };
        let Some(mib) = size.trim().strip_suffix("MiB").and_then(|size| size.trim().parse::<f64>().ok())
        else {
            return;
        };
        let Some((name, kind)) = buffer.trim_end().rsplit_once(' ') else { return };
        let kind = match kind {
            "KV" | "RS" | "state" => &mut self.cells,
            "compute" => &mut self.compute,
            "output" => &mut self.outputs,
            "model" => &mut self.weights,
            _ => return,
        };
        // Such a number is far below those that a float does not tell apart.
        let bytes = (mib.max(0.0) * f64::from(1 << 20)) as u64;
        *kind += bytes;
        let name = name.split_once(": ").map_or(name, |(_, name)| name).trim_start();
        // `CPU`, `CPU_REPACK`, `CPU_Mapped`, and what a device's driver pins, such as `CUDA_Host`.
        if !name.starts_with("CPU") && !name.contains("_Host") {
            self.device += bytes;
        }
    }
}

/// The buffers of which llama.cpp wrote since they were last taken. One thread makes contexts.
static NOTED: Mutex<Buffers> =
    Mutex::new(Buffers { cells: 0, compute: 0, outputs: 0, weights: 0, device: 0 });

/// Reads a line of the log.
pub(super) fn note(line: &str) {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).add(line);
}

/// Returns what was noted since the last time.
pub(super) fn take_noted() -> Buffers {
    std::mem::take(&mut *NOTED.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Context<'_> {
    /// Its buffers now.
    #[must_use]
    pub fn buffers(&self) -> Buffers {
        let noted = self.buffers;
        let cells = match self.ids.memory {
            Memory::Fixed => noted.cells,
            _ if noted.cells == 0 && self.can_generate() => self.cells() * self.model.kv_bytes_per_cell(),
            _ => noted.cells,
        };
        // llama.cpp makes the buffer larger when a step needs that, and never smaller.
        let outputs = noted.outputs.max(u64::from(self.most_outputs) * self.bytes_per_output());
        Buffers { cells, outputs, ..noted }
    }

    /// Bytes that the buffer for logits and embeddings may come to.
    #[must_use]
    pub fn max_output_bytes(&self) -> u64 {
        let outputs = self.sizes.outputs.max(u32::from(self.ids.count()));
        (u64::from(outputs) * self.bytes_per_output()).max(self.buffers.outputs)
    }

    /// Bytes of one cell.
    #[must_use]
    pub fn bytes_per_cell(&self) -> u64 {
        self.buffers().cells.div_ceil(self.cells().max(1))
    }

    fn cells(&self) -> u64 {
        let streams = if self.sizes.streams { u64::from(self.sizes.slots) } else { 1 };
        u64::from(self.sizes.cells) * streams
    }

    fn bytes_per_output(&self) -> u64 {
        let embedding = if self.sizes.embeddings { self.model.embedding_length() as u64 } else { 0 };
        (u64::from(self.model.vocabulary()) + embedding) * size_of::<f32>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_read_from_the_log() {
        let mut buffers = Buffers::default();
        for line in [
            "llama_kv_cache:        CPU KV buffer size =    90.00 MiB",
            "llama_kv_cache:      CUDA0 KV buffer size =    30.50 MiB",
            "llama_memory_recurrent:        CPU RS buffer size =     1.25 MiB",
            "sched_reserve:  CUDA_Host compute buffer size =     2.00 MiB",
            "sched_reserve:      CUDA0 compute buffer size =   100.00 MiB",
            "llama_context:        CPU  output buffer size =     4.00 MiB",
            "load_tensors:   CPU_Mapped model buffer size =   102.54 MiB",
            "load_tensors:        CUDA0 model buffer size =     7.00 MiB",
            "llama_kv_cache: size =   90.00 MiB (  4096 cells,  30 layers,  1/1 seqs)",
            "llama_adapter_lora_init_impl:        CPU LoRA buffer size =     1.00 MiB",
            "a line about the buffer size = of nothing",
        ] {
            buffers.add(line);
        }
        let mib = |mib: f64| (mib * 1_048_576.0) as u64;
        let expected = Buffers {
            cells: mib(121.75),
            compute: mib(102.0),
            outputs: mib(4.0),
            weights: mib(102.54) + mib(7.0),
            device: mib(137.5),
        };
        assert_eq!(buffers, expected);
    }
}
