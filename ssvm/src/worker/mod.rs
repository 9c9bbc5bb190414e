//! The work of the serve process: it alone touches the stores and the strangers' bytes that go into
//! them. It takes tasks from the core over one local socket and runs them side by side.

mod copy;
mod disks;
mod flatten;
mod install;
mod limits;
mod list;
mod process;
mod remove;
mod run;
mod spread;
mod unpack;

pub(crate) use install::{Arrival, NOT_AS_NAMED, arrive, mismatch};
pub(crate) use process::{LINE, run};
pub(crate) use run::serve;
