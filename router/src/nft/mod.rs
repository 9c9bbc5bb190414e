//! The packet filter: one table `inet trivium`, as values ([`table`]), as the difference of two of
//! them ([`diff`]), as the objects of the `nft` program ([`render`]), and applied by one run of that
//! program ([`run`]).

pub mod diff;
pub mod render;
pub mod run;
pub mod table;

pub use table::{
    Action, Base, Chain, Field, Hook, Key, Map, Match, Part, Rule, Spread, Table, Value, ValueKind,
};
