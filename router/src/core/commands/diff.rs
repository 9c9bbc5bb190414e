//! `diff NAME`: what a document or a bundle would change.

use common::shim::wire::Reply;

use super::{Commands, Found, base_name};
use crate::{
    core::bundle::{self, Item},
    document::Document,
};

/// A document whose name begins so was copied for this question only, and goes with its answer.
const PASSING: &str = "diff.";

impl Commands {
    /// Nothing is changed and nothing is archived: the same name can be given to `update_config.py` next.
    pub(super) async fn diff(&self, arguments: &[&str]) -> Reply {
        let [name] = arguments else {
            return Reply::fail(1, "diff: expects the name of a document or bundle in /var/cache/cloud");
        };
        let bytes = match self.find(name) {
            Ok(Found::Bytes(bytes)) => bytes,
            Ok(Found::Done) => return Reply::fail(1, format_args!("diff: {name} was dealt with before")),
            Err(reason) => return Reply::fail(1, format_args!("diff: {reason}")),
        };
        if name.starts_with(PASSING) {
            self.inbox.forget(name);
        }
        let read: Vec<(String, Result<Document, String>)> = if name.ends_with(".cfg") {
            match bundle::read(&bytes) {
                Ok(items) => items.into_iter().filter_map(document).collect(),
                Err(error) => return Reply::fail(1, format_args!("diff: {name}: {error}")),
            }
        } else {
            vec![((*name).to_owned(), Document::read(&bytes).map_err(|error| error.to_string()))]
        };
        let mut failures = Vec::new();
        let (mut names, mut documents) = (Vec::new(), Vec::new());
        for (name, document) in read {
            match document {
                Ok(document) => {
                    names.push(name);
                    documents.push(document);
                }
                Err(reason) => failures.push(format!("{name}: {reason}")),
            }
        }
        let preview = self.engine.lock().await.preview(&documents).await;
        let outcomes = names.into_iter().zip(preview.outcomes);
        failures.extend(outcomes.filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.err()?))));
        failures.extend(preview.refused);
        let stdout = match preview.changes.text() {
            "" if preview.remembers => "it would be remembered; nothing in force would change\n".to_owned(),
            "" => "nothing would change\n".to_owned(),
            text => text.to_owned(),
        };
        let code = u8::from(!failures.is_empty());
        let stderr = failures.iter().map(|failure| format!("would be refused: {failure}\n")).collect();
        Reply { stdout, stderr, code }
    }
}

/// The documents of a bundle; what its commands are is not looked at.
fn document(item: Item) -> Option<(String, Result<Document, String>)> {
    match item {
        Item::File(path, content) => {
            let read = Document::read(&content).map_err(|error| error.to_string());
            Some((base_name(&path).to_owned(), read))
        }
        Item::Script(_) => None,
    }
}
