//! The identity of a model's contents.
//!
//! Reading a file of many gigabytes at each start would cost more than the cache saves. So the hash is of the size, the time of the last
//! change, the beginning with all metadata that fits there, and blocks spread over the rest: other weights differ in all of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Bytes read from the beginning of a file.
const HEAD: u64 = 1 << 20;

/// Blocks read from the rest, and their size.
const BLOCKS: u64 = 64;
const BLOCK: u64 = 64 << 10;

/// Hashes a GGUF file with all its parts.
///
/// # Errors
/// A part cannot be read.
pub fn of_file(path: &Path) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    for part in parts(path) {
        let file = File::open(part)?;
        let metadata = file.metadata()?;
        let size = metadata.len();
        for number in [size, metadata.mtime().cast_unsigned(), metadata.mtime_nsec().cast_unsigned()] {
            hash.update(number.to_le_bytes());
        }
        update(&mut hash, &file, 0, HEAD)?;
        let rest = size.saturating_sub(HEAD + BLOCK);
        for block in 0..=BLOCKS {
            // The last one is the end of the file.
            let at = HEAD + (u128::from(rest) * u128::from(block) / u128::from(BLOCKS)) as u64;
            update(&mut hash, &file, at, BLOCK)?;
        }
    }
    Ok(hash.finalize().into())
}

fn update(hash: &mut Sha256, file: &File, at: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; bytes as usize];
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    hash.update(&buffer[..read]);
    Ok(())
}

/// All files of a model: `x-00001-of-00003.gguf` names three.
fn parts(path: &Path) -> Vec<PathBuf> {
    let whole = || vec![path.to_owned()];
    let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".gguf")) else {
        return whole();
    };
    let Some((begin, count)) = stem.rsplit_once("-of-") else { return whole() };
    let Some((begin, number)) = begin.rsplit_once('-') else { return whole() };
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    match count.parse::<u32>() {
        Ok(parts) if is_number(count) && is_number(number) && parts > 0 => (1..=parts)
            .map(|part| path.with_file_name(format!("{begin}-{part:05}-of-{count}.gguf")))
            .collect(),
        _ => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_contents_have_another_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut bytes = vec![1; 5 << 20];
        std::fs::write(&path, &bytes).unwrap();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        let write = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            of_file(&path).unwrap()
        };
        let first = of_file(&path).unwrap();
        assert_eq!(write(&bytes), first);
        for at in [0, HEAD as usize, bytes.len() - 1] {
            bytes[at] = 2;
            assert_ne!(write(&bytes), first, "{at}");
            bytes[at] = 1;
        }
        bytes.push(1);
        assert_ne!(write(&bytes), first);
        assert!(of_file(&folder.path().join("absent.gguf")).is_err());
        std::fs::write(&path, b"").unwrap();
        of_file(&path).unwrap();
    }

    #[test]
    fn all_parts_count() {
        let folder = tempfile::tempdir().unwrap();
        let part = |number| folder.path().join(format!("m-0000{number}-of-00002.gguf"));
        std::fs::write(part(1), "one").unwrap();
        assert!(of_file(&part(1)).is_err(), "a part is lacking");
        std::fs::write(part(2), "two").unwrap();
        let first = of_file(&part(1)).unwrap();
        std::fs::write(part(2), "another").unwrap();
        assert_ne!(of_file(&part(1)).unwrap(), first);
    }
}
