//! One road for all bytes: source → checksum → decompression → inspection → sink. Each byte is read
//! once, and what is on its way is bounded.

pub(crate) mod budget;
mod decode;
mod digest;
mod marks;
mod meter;
mod pipeline;
mod zip;

pub(crate) use digest::{Algorithm, Checksum};
pub(crate) use marks::{Resumed, sum_of_head};
pub(crate) use meter::{Meter, Phase};
pub(crate) use pipeline::{Plan, TransferError, checksum_of, run};
pub(crate) use zip::only_file;
