//! Deletions. What is not there counts as deleted; what cannot be deleted is a failure.

use std::collections::BTreeSet;

use crate::{
    layout::StorePath,
    order::Failure,
    store::{Found, Store, StoreError},
};

/// Folders that hypervisors leave in a template's folder.
const EXPENDABLE: [&str; 1] = ["KVMHA"];

/// Removes a template or volume: the folder that holds it, or its keys.
pub(super) async fn image(store: &dyn Store, path: &StorePath, id: i64) -> Result<bool, Failure> {
    path.removable()?;
    if !store.has_properties() {
        return Ok(store.remove_folder(path, &[]).await?);
    }
    let found = store.find(path).await?;
    let whole = path.name() == id.to_string() || found == Found::Folder;
    let folder = if whole { path.clone() } else { path.parent().unwrap_or_else(|| path.clone()) };
    if found == Found::Nothing && folder.removable().is_err() {
        return Ok(false);
    }
    folder.removable()?;
    store.remove_folder(&folder, &EXPENDABLE).await.map_err(|error| stays(error, &folder, path))
}

/// What the management server is told of a folder that stays; why it does is for the log.
fn stays(error: StoreError, folder: &StorePath, path: &StorePath) -> Failure {
    let what = match &error {
        StoreError::Denied(what) | StoreError::Other { what, .. } => what.strip_prefix(folder.as_str()),
        _ => None,
    };
    let what = match what {
        Some("") => format!("directory {}", folder.name()),
        Some(inside) => format!("file {}", inside.trim_start_matches('/')),
        None => return error.into(),
    };
    let kind = if path.components().next() == Some("volumes") { "Volume" } else { "Template" };
    tracing::warn!(%path, %error, "a folder stays");
    Failure { text: format!("Unable to delete {what} under {kind} path {path}"), ..error.into() }
}

/// Removes one file, or a folder with all that lies below it.
pub(super) async fn file(store: &dyn Store, path: &StorePath) -> Result<bool, Failure> {
    match store.find(path).await? {
        Found::Folder => tree(store, path).await,
        Found::File(_) | Found::Nothing => Ok(store.remove_file(path).await?),
    }
}

/// Removes all that lies below a folder, and the folder.
pub(super) async fn tree(store: &dyn Store, path: &StorePath) -> Result<bool, Failure> {
    path.removable()?;
    let files = store.list(path).await?;
    let mut folders = BTreeSet::new();
    for file in &files {
        store.remove_file(&file.path).await?;
        let mut folder = file.path.parent();
        while let Some(inner) = folder.filter(|folder| folder != path) {
            folder = inner.parent();
            folders.insert(inner);
        }
    }
    // What lies deeper comes later in this order.
    for folder in folders.iter().rev() {
        store.tidy(folder).await?;
    }
    Ok(store.remove_folder(path, &[]).await? || !files.is_empty())
}

/// Removes the files of one snapshot, its checkpoint, and its folder where nothing else is in it.
pub(super) async fn snapshot(
    store: &dyn Store,
    path: &StorePath,
    checkpoint: Option<&StorePath>,
) -> Result<bool, Failure> {
    path.removable()?;
    if !store.has_properties() {
        return Ok(store.remove_file(path).await?);
    }
    // A folder is what a staging store holds for a chain; it is not the snapshot.
    if store.find(path).await? == Found::Folder {
        return Ok(false);
    }
    let files = files_of(store, path).await;
    let kept = match checkpoint {
        Some(checkpoint) => match checkpoint.removable() {
            Ok(()) => store.remove_file(checkpoint).await.map_err(Failure::from),
            Err(refused) => Err(refused.into()),
        },
        None => Ok(false),
    };
    let said = |result: &Result<bool, Failure>| match result {
        Ok(_) => "done".to_owned(),
        Err(failure) => failure.text.clone(),
    };
    let text = format!(
        "Failed to delete snapshot [{path}]. Snapshot delete result = [{}], Checkpoint delete result = [{}].",
        said(&files),
        said(&kept)
    );
    match (files, kept) {
        (Ok(files), Ok(kept)) => Ok(files || kept),
        (Err(failure), _) | (_, Err(failure)) => Err(Failure { text, ..failure }),
    }
}

/// Removes the files of one snapshot, and its folder where nothing else is in it.
async fn files_of(store: &dyn Store, path: &StorePath) -> Result<bool, Failure> {
    let mut removed = false;
    let Some(folder) = path.parent() else { return Ok(false) };
    for file in store.list(&folder).await? {
        if file.path.parent().as_ref() == Some(&folder) && belongs(file.path.name(), path.name()) {
            removed |= store.remove_file(&file.path).await?;
        }
    }
    store.tidy(&folder).await?;
    Ok(removed)
}

/// Whether a file is part of the snapshot `name`: itself, with an extension, a disk of it, or its
/// flattened copy.
fn belongs(file: &str, name: &str) -> bool {
    match file.strip_prefix(name) {
        Some(rest) => rest.is_empty() || rest.starts_with(['.', '-']) || rest.starts_with("_temp"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_kept() {
        for part in ["51ab", "51ab.vhd", "51ab-disk0.vmdk", "51ab.ovf", "51ab_temp"] {
            assert!(belongs(part, "51ab"), "{part}");
        }
        for other in ["51abc", "x51ab", "51a"] {
            assert!(!belongs(other, "51ab"), "{other}");
        }
    }
}
