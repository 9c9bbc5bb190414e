//! Commands about what a store holds already: volumes that move, snapshots of an account that goes, what an
//! operator browses, what another zone copies, configuration drives.

use common::{
    channel::message::{AnswerBase, Message},
    command::storage::{
        DataStoreTO, DeleteSnapshotsDirCommand, HandleConfigDriveIsoAnswer, HandleConfigDriveIsoCommand,
        ListDataStoreObjectsAnswer, ListDataStoreObjectsCommand, MoveVolumeCommand, NfsTO,
        QuerySnapshotZoneCopyAnswer, QuerySnapshotZoneCopyCommand, StoreRole,
    },
};
use serde_json::json;

use super::{Core, stores::soon};
use crate::{
    layout::StorePath,
    order::{Failure, Outcome, Page, Task},
    store::StoreSpec,
};

/// Entries of a page at most.
const LARGEST_PAGE: usize = 10_000;
/// Largest configuration drive in base64.
const LARGEST_DRIVE: usize = 32 * 1024 * 1024;

fn no_result() -> Failure {
    Failure::end("no result")
}

/// A path of one kind with this many components.
fn place(text: Option<&str>, kind: &str, components: usize) -> Result<StorePath, Failure> {
    let path = StorePath::parse(text.unwrap_or_default())?;
    if path.components().next() == Some(kind) && path.components().count() == components {
        return Ok(path);
    }
    Err(Failure::end(format!("path {path} is refused: it is not one of {kind}")))
}

impl Core {
    /// Removes all snapshots of a volume. None there is no failure.
    pub(super) async fn delete_snapshots(
        &self,
        command: DeleteSnapshotsDirCommand,
    ) -> Result<String, Failure> {
        let named = command.store.as_ref().ok_or_else(|| Failure::end("the command names no store"))?;
        let path = place(command.directory.as_deref(), "snapshots", 3)?;
        let store = self.store(named, None).await?;
        match self.short(Task::RemoveTree { store, path: path.clone() }, Self::SHORT).await {
            Ok(_) => Ok(String::new()),
            Err(failure) => {
                Err(Failure::end(format!("failed to delete all snapshots {path}/* , err={}", failure.text)))
            }
        }
    }

    /// Moves a volume to another account's folder.
    pub(super) async fn move_volume(&self, command: MoveVolumeCommand) -> Result<String, Failure> {
        let from = place(command.src_path.as_deref(), "volumes", 3)?;
        let to = place(command.dest_path.as_deref(), "volumes", 3)?;
        let role = Some(StoreRole::Image);
        let store = DataStoreTO::Nfs(NfsTO { url: command.datastore_uri, role, ..NfsTO::default() });
        let store = self.store(&store, None).await?;
        let (source, target) = (from.to_string(), to.to_string());
        self.short(Task::Move { store, from, to }, Self::SHORT).await?;
        let volume = json!({ "volumeName": command.volume_name, "volumeUuid": command.volume_uuid });
        Ok(format!("Moved volume [{volume}] from [{source}] to [{target}]."))
    }

    /// Shows a page of a folder.
    pub(super) async fn browse(&self, command: ListDataStoreObjectsCommand) -> Message {
        let work = async {
            let named = command.store.as_ref().ok_or_else(|| Failure::end("the command names no store"))?;
            let path = command.path.as_deref().unwrap_or_default().trim_matches('/');
            let path = if path.is_empty() { None } else { Some(StorePath::parse(path)?) };
            let store = self.store(named, None).await?;
            let root = match &store {
                StoreSpec::Folder(folder) => folder.rsplit('/').next().unwrap_or_default().to_owned(),
                StoreSpec::Bucket(_) => String::new(),
            };
            let start = usize::try_from(command.start_index).unwrap_or(0);
            let most = usize::try_from(command.page_size).unwrap_or(0).min(LARGEST_PAGE);
            match self.short(Task::Browse { store, path, start, most }, Self::SHORT).await? {
                Outcome::Browsed(page) => Ok((root, page)),
                _ => Err(no_result()),
            }
        };
        Message::wrap(&match soon(work).await {
            Ok((root, page)) => shown(&root, page),
            Err(failure) => ListDataStoreObjectsAnswer {
                answer: AnswerBase::failed(failure.text),
                ..ListDataStoreObjectsAnswer::default()
            },
        })
    }

    /// Tells which files make up a snapshot.
    pub(super) async fn snapshot_files(&self, command: QuerySnapshotZoneCopyCommand) -> Message {
        let work = async {
            let snapshot = command.snapshot.ok_or_else(|| Failure::end("the command names no snapshot"))?;
            let named = snapshot.data_store.ok_or_else(|| Failure::end("the snapshot names no store"))?;
            let path = StorePath::parse(snapshot.path.as_deref().unwrap_or_default())?;
            path.removable()?;
            let store = self.store(&named, None).await?;
            match self.short(Task::Parts { store, path: path.clone() }, Self::SHORT).await? {
                Outcome::Parts(files) if files.is_empty() => {
                    Err(Failure::end(format!("{path} does not exist")))
                }
                Outcome::Parts(files) => Ok(files),
                _ => Err(no_result()),
            }
        };
        Message::wrap(&match soon(work).await {
            Ok(files) => QuerySnapshotZoneCopyAnswer {
                files: files.into_iter().map(String::from).collect(),
                answer: AnswerBase::ok(),
            },
            Err(failure) => {
                QuerySnapshotZoneCopyAnswer { files: Vec::new(), answer: AnswerBase::failed(failure.text) }
            }
        })
    }

    /// Puts a configuration drive into a store, or takes it away.
    pub(super) async fn config_drive(&self, command: HandleConfigDriveIsoCommand) -> Message {
        let create = command.create;
        let work = async {
            let Some(named @ DataStoreTO::Nfs(_)) = &command.dest_store else {
                return Err(Failure::end("Not implemented yet"));
            };
            let path = place(command.iso_file.as_deref(), "configdrive", 2)?;
            let data =
                command.iso_data.filter(|data| !data.is_empty() && data.expose().len() <= LARGEST_DRIVE);
            if create && data.is_none() {
                return Err(Failure::end("Invalid config drive ISO data"));
            }
            let store = self.store(named, None).await?;
            let task = match data.filter(|_| create) {
                Some(data) => Task::Write { store, path, data },
                None => Task::RemoveFile { store, path },
            };
            self.short(task, Self::SHORT)
                .await
                .map_err(|failure| Failure::end(format!("Failed due to exception: {}", failure.text)))
        };
        let answer = match soon(work).await {
            Ok(_) => {
                let saved = "Successfully saved config drive at secondary storage".to_owned();
                AnswerBase { details: create.then_some(saved), ..AnswerBase::ok() }
            }
            Err(failure) => AnswerBase::failed(failure.text),
        };
        Message::wrap(&HandleConfigDriveIsoAnswer { answer, ..HandleConfigDriveIsoAnswer::default() })
    }
}

/// A page as the management server reads it; `root`: the name of the mount folder.
fn shown(root: &str, page: Page) -> ListDataStoreObjectsAnswer {
    let mut answer = ListDataStoreObjectsAnswer {
        path_exists: page.exists,
        count: i64::try_from(page.count).unwrap_or(i64::MAX),
        answer: AnswerBase::ok(),
        ..ListDataStoreObjectsAnswer::default()
    };
    for node in page.entries {
        answer.names.push(node.path.name().to_owned());
        answer.paths.push(format!("/{}", node.path));
        answer.abs_paths.push(format!("/mnt/SecStorage/{root}/{}", node.path));
        answer.is_dirs.push(node.is_folder);
        answer.sizes.push(i64::try_from(node.size).unwrap_or(i64::MAX));
        answer.last_modified.push(node.modified);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Node;

    #[test]
    fn places() {
        assert!(place(Some("snapshots/2/31/"), "snapshots", 3).is_ok());
        for bad in
            [None, Some("snapshots"), Some("volumes/2/31"), Some("snapshots/../x/y"), Some("snapshots/2/3/4")]
        {
            assert!(place(bad, "snapshots", 3).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_lists_run_side_by_side() {
        let path = StorePath::parse("template/tmpl").unwrap();
        let entries = vec![Node { path, is_folder: true, size: 4096, modified: 1_000 }];
        let answer = shown("cf09", Page { exists: true, count: 7, entries });
        assert_eq!(
            (answer.count, answer.names, answer.paths),
            (7, vec!["tmpl".into()], vec!["/template/tmpl".into()])
        );
        assert_eq!(answer.abs_paths, ["/mnt/SecStorage/cf09/template/tmpl"]);
        assert_eq!(
            (answer.is_dirs, answer.sizes, answer.last_modified),
            (vec![true], vec![4096], vec![1000])
        );
    }
}
