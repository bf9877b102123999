//! Small files that must be whole and private: secrets and the store's id.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a folder that only its owner can look into, if there is none.
///
/// # Errors
/// The system's error.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner can read. After a crash either the whole file or the previous content is there.
///
/// # Errors
/// The system's error.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = folder.join(name);
    // One that a crash left behind may have another mode.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    // The mode given at creation is subject to the umask, which may only take away.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    sync_folder(folder)
}

/// Sizes of a key file: fewer bytes can be guessed, and more are some other file.
const KEY_FILE_SIZES: std::ops::RangeInclusive<usize> = 16..=65_536;

/// Reads a file whose contents are a key.
///
/// # Errors
/// It cannot be read, or its size is not that of a key.
pub fn read_key_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(*KEY_FILE_SIZES.end() as u64 + 1).read_to_end(&mut bytes)?;
    if !KEY_FILE_SIZES.contains(&bytes.len()) {
        let message = format!("it has to have {} to {} bytes", KEY_FILE_SIZES.start(), KEY_FILE_SIZES.end());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// Makes it durable that a file is in its folder.
///
/// # Errors
/// The system's error.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_whole_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("a/keys");
        create_private_folder(&keys).unwrap();
        create_private_folder(&keys).unwrap();
        assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
        let path = keys.join("secret");
        std::fs::write(keys.join("secret.new"), "of a crash").unwrap();
        for text in ["one", "another"] {
            write_private(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 1);
    }
}
