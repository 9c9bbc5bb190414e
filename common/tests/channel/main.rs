//! Both ends of the management channel against each other and against raw peers, over TCP.

mod certificates;
mod joining;
mod peers;
mod staying;
mod support;
