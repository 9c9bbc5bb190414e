//! Where a download comes from.

mod address;
mod http;
mod url;

pub(crate) use address::Policy;
pub(crate) use http::{HttpOrder, HttpSource, ProxySpec};
