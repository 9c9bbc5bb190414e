//! The console proxy's two processes against a management end, QEMU's VNC servers and browsers.

mod browser;
mod crowd;
mod hostile;
mod hypervisors;
mod page;
mod recording;
mod refusals;
mod sessions;
mod start;
mod typing;
mod window;
