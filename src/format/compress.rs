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
use zstd::bulk::Compressor as Encoder;
#[cfg(feature = "zstd")]
use zstd::dict::{DecoderDictionary, from_samples};
#[cfg(feature = "zstd")]
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_frame_content_size};

use super::FormatError;
#[cfg(feature = "zstd")]
use super::{RECORD_BODY_MAX, padded_len};

/// Whether this build compresses bodies, and reads compressed ones.
pub(crate) const COMPRESSES: bool = cfg!(feature = "zstd");

/// The level at which entries are compressed: a rewrite must not hold up a small machine, and with a
/// dictionary higher ones gain little.
#[cfg(feature = "zstd")]
const LEVEL: i32 = 1;
/// A dictionary takes at most so many bytes, which is where small documents stop to gain.
#[cfg(feature = "zstd")]
const DICTIONARY_BYTES_MAX: u64 = 16 * 1024;
/// A smaller dictionary holds nothing worth its record.
#[cfg(feature = "zstd")]
const DICTIONARY_BYTES_MIN: u64 = 512;
/// A dictionary takes at most this share of the bytes that are compressed with it.
#[cfg(feature = "zstd")]
const DICTIONARY_SHARE: u64 = 32;
/// A dictionary stands in a segment so many times.
#[cfg(feature = "zstd")]
const DICTIONARY_COPIES: u64 = 2;
/// Training needs about so many samples to find what they share.
#[cfg(feature = "zstd")]
const SAMPLES_MIN: usize = 8;

/// So many idle decoders are kept; each takes about 100 KiB.
#[cfg(feature = "zstd")]
const DECODERS_MAX: usize = 4;

/// What the compressed bodies of a segment were compressed with; empty when with nothing.
pub(crate) struct Dictionary {
    bytes: Vec<u8>,
    /// When it was made, by the wall clock.
    made_ms: u64,
    /// None when it is empty, or no dictionary.
    #[cfg(feature = "zstd")]
    prepared: Option<DecoderDictionary<'static>>,
}

impl Dictionary {
    pub fn new(bytes: Vec<u8>, made_ms: u64) -> Arc<Self> {
        #[cfg(feature = "zstd")]
        let prepared = (!bytes.is_empty()).then(|| DecoderDictionary::try_copy(&bytes).ok());
        Arc::new(Self {
            bytes,
            made_ms,
            #[cfg(feature = "zstd")]
            prepared: prepared.flatten(),
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn made_ms(&self) -> u64 {
        self.made_ms
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

/// Compresses the bodies of one segment.
#[cfg(feature = "zstd")]
pub(crate) struct Compressor {
    dictionary: Vec<u8>,
    encoder: Encoder<'static>,
    estimate: u64,
}

/// Compresses the bodies of one segment: there is none in this build.
#[cfg(not(feature = "zstd"))]
#[derive(Debug)]
pub(crate) enum Compressor {}

#[cfg(feature = "zstd")]
impl Compressor {
    /// One for so many bytes, of which these are samples: with a dictionary, if that makes it less
    /// all in all. None without samples.
    pub fn train(samples: &[Vec<u8>], bytes: u64) -> Option<Self> {
        let sampled = samples.iter().map(|sample| sample.len() as u64).sum::<u64>();
        if sampled == 0 {
            return None;
        }
        let plain = Self::measured(Vec::new(), samples, sampled, bytes);
        let len = (bytes / DICTIONARY_SHARE).min(DICTIONARY_BYTES_MAX);
        if len < DICTIONARY_BYTES_MIN || samples.len() < SAMPLES_MIN {
            return plain;
        }
        // Samples without anything in common make no dictionary.
        let dictionary = from_samples(samples, usize::try_from(len).unwrap_or(0)).ok();
        let trained =
            dictionary.and_then(|bytes_of| Self::measured(bytes_of, samples, sampled, bytes));
        let both = plain.into_iter().chain(trained);
        both.min_by_key(|compressor| compressor.estimate)
    }

    fn measured(
        dictionary: Vec<u8>,
        samples: &[Vec<u8>],
        sampled: u64,
        bytes: u64,
    ) -> Option<Self> {
        let encoder = Encoder::with_dictionary(LEVEL, &dictionary).ok()?;
        let overhead = DICTIONARY_COPIES * padded_len(dictionary.len());
        let mut compressor = Self { dictionary, encoder, estimate: 0 };
        let packed = samples.iter().map(|sample| {
            let packed = compressor.compress(sample);
            packed.map_or(sample.len(), |packed| packed.len()) as u64
        });
        let packed = packed.sum::<u64>();
        compressor.estimate =
            u64::try_from(u128::from(packed) * u128::from(bytes) / u128::from(sampled))
                .unwrap_or(bytes)
                .saturating_add(overhead);
        Some(compressor)
    }

    /// About how many bytes all of it takes, the dictionary included.
    pub fn estimate(&self) -> u64 {
        self.estimate
    }

    /// What the bodies are compressed with; empty when with nothing.
    pub fn dictionary(&self) -> &[u8] {
        &self.dictionary
    }

    /// The body as a frame; none when its record would not get shorter.
    pub fn compress(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let packed = self.encoder.compress(body).ok()?;
        (padded_len(packed.len()) < padded_len(body.len())).then_some(packed)
    }
}

#[cfg(not(feature = "zstd"))]
impl Compressor {
    pub fn train(_samples: &[Vec<u8>], _bytes: u64) -> Option<Self> {
        None
    }

    pub fn estimate(&self) -> u64 {
        match *self {}
    }

    pub fn dictionary(&self) -> &[u8] {
        match *self {}
    }

    pub fn compress(&mut self, _body: &[u8]) -> Option<Vec<u8>> {
        match *self {}
    }
}

#[cfg(feature = "zstd")]
impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("dictionary", &self.dictionary.len())
            .field("estimate", &self.estimate)
            .finish_non_exhaustive()
    }
}
