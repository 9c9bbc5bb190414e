//! Where a download comes from.

mod address;
mod http;
mod metalink;
mod url;

pub(crate) use address::Policy;
pub(crate) use http::{HttpOrder, HttpSource, ProxySpec};
pub(crate) use metalink::{check as check_metalink, is_metalink, open as open_metalink};
