//! The model inside the binary: `fixtures/models/jan-tiny.gguf`.

use std::io::Write;
use std::path::{Path, PathBuf};

use jan_protocol::bundled_model::ID;
use sha2::{Digest, Sha256};

/// The GGUF file. Only a worker reads it, so the server process never has these pages in memory.
static GGUF: &[u8] = include_bytes!("../../../fixtures/models/jan-tiny.gguf");

/// Writes the model below `folder`, unless it lies there already, and returns its path. The name carries the content's hash, so
/// that another version's file is never taken for it.
///
/// # Errors
/// Fails if the folder cannot be written.
pub fn unpack(folder: &Path) -> std::io::Result<PathBuf> {
    use std::fmt::Write as _;

    let mut name = format!("{ID}-");
    for byte in &Sha256::digest(GGUF)[..8] {
        let _ = write!(name, "{byte:02x}");
    }
    let path = folder.join(name + ".gguf");
    if std::fs::metadata(&path).is_ok_and(|m| m.len() == GGUF.len() as u64) {
        return Ok(path);
    }
    std::fs::create_dir_all(folder)?;
    // Written beside and renamed: replicas that unpack at the same time never see half a file.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(GGUF)?;
    file.persist(&path)?;
    Ok(path)
}
