//! User data and metadata over HTTP.
