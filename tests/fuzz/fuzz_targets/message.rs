//! Any bytes as the text of a packet: what was read comes back after writing, in ASCII; typed
//! readers give errors, never panics.
#![no_main]

use common::channel::json;
use common::channel::message::Message;
use common::channel::message::Wire;
use common::command::agent::{
    PingAnswer, PingRoutingCommand, ReadyCommand, SetupCertificateCommand, SetupMsListCommand, StartupAnswer,
    StartupRoutingCommand,
};
use libfuzzer_sys::fuzz_target;

/// Reads the message as if its class were that of `T`.
fn read_as<T: Wire>(message: &Message) {
    let renamed = Message { class: T::CLASS.to_owned(), body: message.body.clone() };
    if let Ok(typed) = renamed.read::<T>() {
        let _ = Message::of(&typed);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(list) = json::parse(bytes) else { return };
    let messages: Vec<Message> = list.into_iter().filter_map(Result::ok).collect();
    let written = json::write(&messages);
    assert!(written.is_ascii());
    let again: Vec<Message> =
        json::parse(&written).expect("what was written").into_iter().filter_map(Result::ok).collect();
    assert!(again == messages);
    for message in &messages {
        let _ = format!("{message:?}");
        read_as::<ReadyCommand>(message);
        read_as::<StartupAnswer>(message);
        read_as::<StartupRoutingCommand>(message);
        read_as::<PingAnswer>(message);
        read_as::<PingRoutingCommand>(message);
        read_as::<SetupMsListCommand>(message);
        read_as::<SetupCertificateCommand>(message);
    }
});
