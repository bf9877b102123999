//! The fingerprint of all that the state of a prefix depends on, beside the contents of the model.

use sha2::{Digest, Sha256};

use super::format::Fingerprint;
use crate::llama::{Memory, Model, system_info};
use crate::types::EngineSettings;

/// The version of llama.cpp; a test compares it with Cargo.toml.
const LLAMA: &str = "llama-cpp-sys-2 =0.1.161";

/// Hashes versions, the kinds of keys, values and memory, and the processor's features: the kernels follow from them, and with
/// `engine.reproducible` a prefix has to be the same to the last bit. `file_name` is that of the model in the program, which has
/// the hash of its contents.
pub fn fingerprint(
    model: &Model,
    memory: Memory,
    settings: &EngineSettings,
    gpu_layers: u32,
    file_name: &str,
) -> Fingerprint {
    let metadata = |key: &str| model.metadata(key).unwrap_or_default();
    let architecture = metadata("general.architecture");
    // Factors of such models depend on the size of the context.
    let is_long = !metadata(&format!("{architecture}.rope.scaling.original_context_length")).is_empty();
    let parts = [
        "prefix".to_owned(),
        env!("CARGO_PKG_VERSION").to_owned(),
        LLAMA.to_owned(),
        system_info(),
        format!("{memory:?}"),
        format!("reproducible {}", settings.reproducible),
        format!("gpu layers {gpu_layers}"),
        if is_long { format!("cells {}", settings.kv_cells) } else { String::new() },
        file_name.to_owned(),
        architecture,
        metadata("general.name"),
        model.vocabulary().to_string(),
        model.kv_bytes_per_cell().to_string(),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_of_llama_cpp_is_that_of_the_build() {
        let (name, version) = super::LLAMA.split_once(' ').unwrap();
        let dependency = format!("{name} = {{ version = \"{version}\"");
        assert!(include_str!("../../Cargo.toml").contains(&dependency), "name the new version in LLAMA");
    }
}
