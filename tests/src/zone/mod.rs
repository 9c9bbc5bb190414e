//! A whole zone on this machine: its wires, the servers around it, and the checks of its main job.

pub mod browser;
pub mod network;
pub mod report;
pub mod servers;
