//! The format of a file: a prefix's tokens and the state that llama.cpp saved of them.
//!
//! ```text
//! header   magic, salt, fingerprint, label, numbers of tokens and pieces, size of the state
//! index    the tokens, and each piece's first position and size
//! state    the pieces, one behind the other
//! ```
//!
//! Index and state are encrypted and authenticated in chunks (AES-256-GCM): each chunk's nonce has its number and whether it is the
//! last, so that none can be changed, moved, left out or added. The keys follow from the tenant's key, which is bound to model and
//! tenant, and from the whole header; the random salt makes them the file's own. The index is read alone to find out what a
//! file holds.

use std::io::{Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use jan_protocol::prefix_files::{Defect, TenantKey};
use jan_protocol::types::Token;

/// The beginning of every file of this version of the format.
const MAGIC: [u8; 8] = *b"JANKV\0\0\x01";

/// Plain bytes of a chunk.
const CHUNK: usize = 1 << 20;

const TAG: usize = 16;
const SALT: usize = 32;
const HEADER: usize = MAGIC.len() + SALT + 32 + 16 + 4 + 4 + 8;

/// Identity of all that a file's state depends on beside the model: versions, settings, processor. A file with another one is not read.
pub type Fingerprint = [u8; 32];

/// What distinguishes a tenant's own partitions (`prompt_cache_key`).
pub type Label = [u8; 16];

/// A part of a saved state: the position of its first token, and llama.cpp's bytes.
pub type Piece = (u32, Vec<u8>);

/// Bounds of a file that is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of tokens.
    pub tokens: u32,
    /// Maximum size of the file.
    pub bytes: u64,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The partition.
    pub label: Label,
    /// The tokens.
    pub tokens: Vec<Token>,
    /// The position and size of each piece.
    pieces: Vec<(u32, u64)>,
    header: [u8; HEADER],
}

/// The label of a partition.
pub fn label(key: &TenantKey, partition: &str) -> Label {
    let mut label = Label::default();
    label.copy_from_slice(&derive(key, b"label", partition.as_bytes())[..16]);
    label
}

fn derive(key: &TenantKey, purpose: &[u8], of: &[u8]) -> [u8; 32] {
    let info = [purpose, &[0], of];
    let mut derived = [0; 32];
    let okm = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &key.0);
    let filled = okm.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut derived));
    filled.expect("32 bytes are the length of HKDF_SHA256's keys");
    derived
}

/// The size of a file.
pub fn size(tokens: usize, pieces: &[Piece]) -> u64 {
    let state: u64 = pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    size_of(tokens as u64, pieces.len() as u64, state).unwrap_or(u64::MAX)
}

fn size_of(tokens: u64, pieces: u64, state: u64) -> Option<u64> {
    let index = tokens.checked_mul(4)?.checked_add(pieces.checked_mul(12)?)?;
    (HEADER as u64).checked_add(sealed(index)?)?.checked_add(sealed(state)?)
}

/// The size of an encrypted section. An empty one has a chunk, too.
fn sealed(plain: u64) -> Option<u64> {
    plain.checked_add(plain.div_ceil(CHUNK as u64).max(1).checked_mul(TAG as u64)?)
}

/// One section's key and the number of its next chunk.
struct Section {
    key: LessSafeKey,
    number: u64,
}

impl Section {
    fn new(key: &TenantKey, name: &[u8], header: &[u8; HEADER]) -> Self {
        let key = derive(key, name, header);
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are a key of AES-256");
        Self { key: LessSafeKey::new(key), number: 0 }
    }

    fn nonce(&mut self, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[0] = u8::from(is_last);
        nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, chunk: &mut [u8], is_last: bool, to: &mut impl Write) -> std::io::Result<()> {
        let nonce = self.nonce(is_last);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), chunk);
        let tag = tag.map_err(std::io::Error::other)?;
        to.write_all(chunk)?;
        to.write_all(tag.as_ref())
    }

    /// Reads all `plain` bytes of the section, chunk by chunk.
    fn open(&mut self, plain: u64, from: &mut impl Read, mut take: impl FnMut(&[u8])) -> Result<(), Defect> {
        let mut left = plain;
        let mut buffer = Vec::new();
        loop {
            let len = left.min(CHUNK as u64);
            left -= len;
            buffer.resize(len as usize + TAG, 0);
            from.read_exact(&mut buffer).map_err(|_| Defect::Damaged)?;
            let nonce = self.nonce(left == 0);
            let opened = self.key.open_in_place(nonce, Aad::empty(), &mut buffer);
            take(opened.map_err(|_| Defect::Damaged)?);
            if left == 0 {
                return Ok(());
            }
        }
    }
}

/// Writes a file.
///
/// # Errors
/// The system's error.
pub fn write(
    key: &TenantKey,
    fingerprint: &Fingerprint,
    label: &Label,
    tokens: &[Token],
    pieces: &[Piece],
    to: &mut impl Write,
) -> std::io::Result<()> {
    let mut header = [0; HEADER];
    let state: u64 = pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let mut salt = [0; SALT];
    aws_lc_rs::rand::fill(&mut salt).map_err(std::io::Error::other)?;
    let count = |count: usize| u32::try_from(count).map_err(std::io::Error::other);
    let (of_tokens, of_pieces) = (count(tokens.len())?.to_le_bytes(), count(pieces.len())?.to_le_bytes());
    let parts: [&[u8]; 7] = [&MAGIC, &salt, fingerprint, label, &of_tokens, &of_pieces, &state.to_le_bytes()];
    header.copy_from_slice(&parts.concat());
    to.write_all(&header)?;

    let mut index: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    for (start, bytes) in pieces {
        index.extend(start.to_le_bytes());
        index.extend((bytes.len() as u64).to_le_bytes());
    }
    let mut section = Section::new(key, b"index", &header);
    let chunks = index.len().div_ceil(CHUNK).max(1);
    for number in 0..chunks {
        let end = index.len().min((number + 1) * CHUNK);
        section.seal(&mut index[number * CHUNK..end], number + 1 == chunks, to)?;
    }

    let mut section = Section::new(key, b"state", &header);
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut left = state;
    for (_, bytes) in pieces {
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            let more = bytes.len().min(CHUNK - chunk.len());
            chunk.extend_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            left -= more as u64;
            if chunk.len() == CHUNK || left == 0 {
                section.seal(&mut chunk, left == 0, to)?;
                chunk.clear();
            }
        }
    }
    if state == 0 {
        section.seal(&mut chunk, true, to)?;
    }
    Ok(())
}

/// Reads what a file of `size` bytes holds, and leaves `from` at the beginning of the state.
///
/// # Errors
/// The reason why it cannot be used.
pub fn read_contents(
    key: &TenantKey,
    fingerprint: &Fingerprint,
    limits: Limits,
    size: u64,
    from: &mut impl Read,
) -> Result<Contents, Defect> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).map_err(|_| Defect::Damaged)?;
    let mut rest = &header[..];
    let mut take = |len: usize| rest.split_off(..len).unwrap_or_default();
    if take(MAGIC.len()) != MAGIC {
        return Err(Defect::Foreign);
    }
    let _salt = take(SALT);
    if take(32) != fingerprint {
        return Err(Defect::Foreign);
    }
    let mut label = Label::default();
    label.copy_from_slice(take(16));
    let mut number = |len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(take(len));
        u64::from_le_bytes(bytes)
    };
    let (tokens, pieces, state) = (number(4), number(4), number(8));
    if size > limits.bytes || tokens > u64::from(limits.tokens) {
        return Err(Defect::Unfit);
    }
    // Bounds all that is allocated by the size of the file.
    if pieces > tokens || size_of(tokens, pieces, state) != Some(size) {
        return Err(Defect::Damaged);
    }
    let mut index = Vec::new();
    let plain = tokens * 4 + pieces * 12;
    Section::new(key, b"index", &header).open(plain, from, |chunk| index.extend_from_slice(chunk))?;
    let (of_tokens, of_pieces) = index.split_at(tokens as usize * 4);
    let four = |bytes: &[u8]| [bytes[0], bytes[1], bytes[2], bytes[3]];
    let tokens = of_tokens.chunks_exact(4).map(|bytes| Token::from_le_bytes(four(bytes))).collect();
    let pieces = of_pieces.chunks_exact(12).map(|bytes| {
        let len = [four(&bytes[4..8]), four(&bytes[8..12])].concat();
        let mut eight = [0; 8];
        eight.copy_from_slice(&len);
        (u32::from_le_bytes(four(bytes)), u64::from_le_bytes(eight))
    });
    let pieces: Vec<(u32, u64)> = pieces.collect();
    let total = pieces.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
    if total != Some(state) {
        return Err(Defect::Damaged);
    }
    Ok(Contents { label, tokens, pieces, header })
}

/// Reads the state of a file whose contents were read from `from` before.
///
/// # Errors
/// The reason why it cannot be used.
pub fn read_state(key: &TenantKey, contents: &Contents, from: &mut impl Read) -> Result<Vec<Piece>, Defect> {
    let mut sizes = contents.pieces.iter();
    let mut pieces: Vec<Piece> = Vec::with_capacity(contents.pieces.len());
    // Sums were checked against the size of the file.
    let total = contents.pieces.iter().map(|(_, len)| len).sum();
    let mut room = 0;
    Section::new(key, b"state", &contents.header).open(total, from, |mut chunk| {
        while !chunk.is_empty() {
            if room == 0 {
                let Some((start, len)) = sizes.next() else { return };
                room = *len as usize;
                pieces.push((*start, Vec::with_capacity(room)));
                continue;
            }
            let more = room.min(chunk.len());
            if let Some((_, bytes)) = pieces.last_mut() {
                bytes.extend_from_slice(&chunk[..more]);
            }
            chunk = &chunk[more..];
            room -= more;
        }
    })?;
    match from.read(&mut [0]) {
        Ok(0) if pieces.len() == contents.pieces.len() => Ok(pieces),
        _ => Err(Defect::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { tokens: 1000, bytes: 1 << 30 };
    const KEY: TenantKey = TenantKey([5; 32]);
    const PRINT: Fingerprint = [6; 32];

    fn file(tokens: &[Token], pieces: &[Piece]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&KEY, &PRINT, &label(&KEY, "a"), tokens, pieces, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size(tokens.len(), pieces));
        bytes
    }

    fn read(key: &TenantKey, bytes: &[u8]) -> Result<(Contents, Vec<Piece>), Defect> {
        let mut from = bytes;
        let contents = read_contents(key, &PRINT, LIMITS, bytes.len() as u64, &mut from)?;
        let state = read_state(key, &contents, &mut from)?;
        Ok((contents, state))
    }

    fn parts() -> impl Strategy<Value = (Vec<Token>, Vec<Piece>)> {
        let piece = (any::<u32>(), prop::collection::vec(any::<u8>(), 1..300));
        (prop::collection::vec(any::<Token>(), 4..60), prop::collection::vec(piece, 0..4))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read((tokens, pieces) in parts()) {
            let (contents, state) = read(&KEY, &file(&tokens, &pieces)).unwrap();
            prop_assert_eq!((contents.tokens, state), (tokens, pieces));
            prop_assert_eq!(contents.label, label(&KEY, "a"));
        }

        /// Any change, cut or addition is noticed, and nothing else is ever returned.
        #[test]
        fn what_was_changed_is_not_read(
            (tokens, pieces) in parts(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
            added in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let whole = file(&tokens, &pieces);
            let mut changed = whole.clone();
            changed[at.index(whole.len())] ^= 1 << bit;
            prop_assert!(read(&KEY, &changed).is_err());
            prop_assert!(read(&KEY, &whole[..cut.index(whole.len())]).is_err());
            prop_assert!(read(&KEY, &[whole.clone(), added].concat()).is_err());
            prop_assert!(read(&TenantKey([4; 32]), &whole).is_err());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&KEY, &bytes);
            let _ = read(&KEY, &[&MAGIC, &[0; SALT][..], &PRINT, &bytes].concat());
        }
    }

    #[test]
    fn states_of_many_chunks() {
        let pieces: Vec<Piece> = [(0, CHUNK), (7, 1), (8, CHUNK * 2 - 1), (9, 5)]
            .map(|(start, len)| (start, vec![start as u8; len]))
            .into();
        let bytes = file(&[1, 2, 3, 4, 5], &pieces);
        assert_eq!(read(&KEY, &bytes).unwrap().1, pieces);
        // Whole chunks at the end are missed, too, though the size is that of a file.
        let state = bytes.len() - (CHUNK * 3 + 5) - 4 * TAG;
        let mut swapped = bytes.clone();
        let (one, other) = (state, state + CHUNK + TAG);
        swapped[one..one + CHUNK + TAG].copy_from_slice(&bytes[other..other + CHUNK + TAG]);
        swapped[other..other + CHUNK + TAG].copy_from_slice(&bytes[one..one + CHUNK + TAG]);
        assert_eq!(read(&KEY, &swapped), Err(Defect::Damaged));
    }

    #[test]
    fn bounds_and_versions() {
        let bytes = file(&[1, 2, 3], &[(0, vec![1; 100])]);
        let size = bytes.len() as u64;
        let read =
            |print: &Fingerprint, limits| read_contents(&KEY, print, limits, size, &mut &bytes[..]).err();
        assert_eq!(read(&PRINT, LIMITS), None);
        assert_eq!(read(&[0; 32], LIMITS), Some(Defect::Foreign));
        assert_eq!(read(&PRINT, Limits { tokens: 2, ..LIMITS }), Some(Defect::Unfit));
        assert_eq!(read(&PRINT, Limits { bytes: size - 1, ..LIMITS }), Some(Defect::Unfit));
        assert_ne!(label(&KEY, "a"), label(&KEY, "b"));
    }
}
