//! The secondary storage VM as the management server sees it: real processes, the real channel, a
//! web server that can misbehave, folders in the place of NFS exports, and a real S3 server.

mod appliances;
mod browser;
mod chains;
mod copies;
mod dead;
mod downloads;
mod packages;
mod pieces;
mod restarts;
mod setup;
mod upkeep;
mod web;
mod zones;
