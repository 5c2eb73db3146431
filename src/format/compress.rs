//! Compressed bodies: one Zstandard frame each, made with the dictionary of their segment.
//!
//! This is the only file that names zstd. Without the feature of that name compressed bodies are
//! carried along as they are, and not read.
//!
//! Invariant: what a frame says about itself is believed only within the bounds of a body.

use std::sync::Arc;
#[cfg(feature = "zstd")]
use std::sync::{Mutex, PoisonError};

#[cfg(feature = "zstd")]
use zstd::dict::DecoderDictionary;
#[cfg(feature = "zstd")]
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_frame_content_size};

use super::FormatError;
#[cfg(feature = "zstd")]
use super::RECORD_BODY_MAX;

/// So many idle decoders are kept; each takes about 100 KiB.
#[cfg(feature = "zstd")]
const DECODERS_MAX: usize = 4;

/// What the compressed bodies of a segment were compressed with; empty when with nothing.
pub(crate) struct Dictionary {
    bytes: Vec<u8>,
    /// None when it is empty, or no dictionary.
    #[cfg(feature = "zstd")]
    prepared: Option<DecoderDictionary<'static>>,
}

impl Dictionary {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        #[cfg(feature = "zstd")]
        let prepared = (!bytes.is_empty()).then(|| DecoderDictionary::try_copy(&bytes).ok());
        Arc::new(Self {
            bytes,
            #[cfg(feature = "zstd")]
            prepared: prepared.flatten(),
        })
    }
}

impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Dictionary {}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dictionary").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// The body that a frame was made of.
#[cfg(feature = "zstd")]
pub(super) fn decompress(
    body: &[u8],
    dictionary: Option<&Dictionary>,
) -> Result<Vec<u8>, FormatError> {
    const LIE: FormatError = FormatError::Field("compressed body");
    let stated = get_frame_content_size(body).ok().flatten();
    let stated = stated.filter(|len| *len <= u64::from(RECORD_BODY_MAX)).ok_or(LIE)?;
    // The decoder takes any number of frames in a row; a body is one.
    if find_frame_compressed_size(body) != Ok(body.len()) {
        return Err(LIE);
    }
    let mut plain = Vec::with_capacity(usize::try_from(stated).unwrap_or(0));
    let mut decoder = take_decoder().ok_or(LIE)?;
    let len = match dictionary.and_then(|dictionary| dictionary.prepared.as_ref()) {
        Some(prepared) => decoder.decompress_using_ddict(&mut plain, body, prepared.as_ddict()),
        None => decoder.decompress(&mut plain, body),
    };
    put_decoder(decoder);
    if len.is_ok_and(|len| len as u64 == stated) { Ok(plain) } else { Err(LIE) }
}

/// Decoders that nobody uses right now: to make one takes longer than to decompress a small body.
#[cfg(feature = "zstd")]
static DECODERS: Mutex<Vec<DCtx<'static>>> = Mutex::new(Vec::new());

#[cfg(feature = "zstd")]
fn take_decoder() -> Option<DCtx<'static>> {
    let idle = DECODERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
    idle.or_else(DCtx::try_create)
}

#[cfg(feature = "zstd")]
fn put_decoder(decoder: DCtx<'static>) {
    let mut idle = DECODERS.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.len() < DECODERS_MAX {
        idle.push(decoder);
    }
}

/// The body that a frame was made of: not in this build.
#[cfg(not(feature = "zstd"))]
pub(super) fn decompress(
    _body: &[u8],
    _dictionary: Option<&Dictionary>,
) -> Result<Vec<u8>, FormatError> {
    Err(FormatError::Compressed)
}
