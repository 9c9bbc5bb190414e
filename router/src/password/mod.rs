//! One-time passwords over HTTP.
