//! The console proxy's two processes against a management end, QEMU's VNC servers and browsers.

mod browser;
mod hypervisors;
mod page;
mod refusals;
mod sessions;
mod start;
mod typing;
