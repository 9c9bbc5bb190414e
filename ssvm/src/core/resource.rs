//! What the VM brings to the management channel: a command comes in, its answer goes out.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use common::{
    channel::{
        agent::Resource,
        message::{AnswerBase, Message, Wire},
    },
    command::{
        agent::{self, PingStorageCommand},
        storage::{
            ComputeChecksumCommand, CopyCommand, CreateDatadiskTemplateCommand,
            CreateEntityDownloadURLCommand, DataStoreTO, DataTO, DeleteCommand,
            DeleteEntityDownloadURLCommand, DeleteSnapshotsDirCommand, DownloadCommand,
            DownloadProgressCommand, GetDatadisksCommand, GetStorageStatsAnswer, GetStorageStatsCommand,
            HandleConfigDriveIsoCommand, ListDataStoreObjectsCommand, ListTemplateAnswer,
            ListTemplateCommand, ListVolumeAnswer, ListVolumeCommand, MoveVolumeCommand,
            QuerySnapshotZoneCopyCommand, SecStorageFirewallCfgCommand, SecStorageSetupAnswer,
            SecStorageSetupCommand, SecStorageVMSetupCommand, TemplateProp, UploadStatusCommand,
        },
    },
};
use ipnet::Ipv4Net;

use super::{
    Core,
    export::shown,
    startup,
    stores::{self, soon},
};
use crate::{
    layout::StorePath,
    order::{Failure, Images, Outcome, Task},
};

/// Longest time for the listing of a large store.
const LISTING: Duration = Duration::from_secs(600);
/// Longest time for a checksum.
const CHECKSUM: Duration = Duration::from_secs(3600);
/// Capacity reported for an object store, in bytes.
const S3_CAPACITY: i64 = 1 << 50;

/// The role's side of the agent.
pub(super) struct Role(pub(super) Arc<Core>);

impl Resource for Role {
    fn startup(&self) -> Vec<Message> {
        vec![Message::wrap(&startup::command(&self.0.paths, &self.0.identity))]
    }

    async fn execute(&self, command: Message) -> Message {
        self.0.execute(command).await
    }

    fn ping(&self) -> Message {
        let mut ping = PingStorageCommand::default();
        ping.ping.host_type = "Storage".to_owned();
        Message::wrap(&ping)
    }
}

/// Reads a command, or answers why it cannot be read.
fn read<T: Wire>(command: &Message) -> Result<T, Message> {
    command.read().map_err(|error| agent::failed(error.to_string()))
}

fn plain(result: Result<String, Failure>) -> Message {
    match result {
        Ok(details) => {
            let details = Some(details).filter(|d| !d.is_empty());
            Message::wrap(&agent::Answer { answer: AnswerBase { details, ..AnswerBase::ok() } })
        }
        Err(failure) => agent::failed(failure.text),
    }
}

/// Name of the folder that a template or volume at `path` is removed with, where there is none.
fn parent(path: &str, id: i64) -> &str {
    let mut names = path.trim_matches('/').rsplit('/');
    let last = names.next().unwrap_or_default();
    names.next().filter(|_| last != id.to_string()).unwrap_or(last)
}

impl Core {
    /// Executes one command.
    pub(super) async fn execute(self: &Arc<Self>, command: Message) -> Message {
        let answered: Result<Message, Message> = async {
            Ok(match command.class.as_str() {
                SecStorageSetupCommand::CLASS => self.set_up(read(&command)?).await,
                SecStorageVMSetupCommand::CLASS => self.set_up_vm(read(&command)?).await,
                SecStorageFirewallCfgCommand::CLASS => self.set_peers(&read(&command)?),
                DownloadCommand::CLASS => self.download(read(&command)?).await,
                DownloadProgressCommand::CLASS => self.download_progress(read(&command)?).await,
                CopyCommand::CLASS => self.copy(read(&command)?, &command.class).await,
                DeleteCommand::CLASS => self.delete(read(&command)?, &command.class).await,
                ListTemplateCommand::CLASS => self.list_templates(read(&command)?).await,
                ListVolumeCommand::CLASS => self.list_volumes(read(&command)?).await,
                GetStorageStatsCommand::CLASS => self.stats(read(&command)?).await,
                ComputeChecksumCommand::CLASS => plain(self.checksum(read(&command)?).await),
                CreateEntityDownloadURLCommand::CLASS => self.create_link(read(&command)?).await,
                DeleteEntityDownloadURLCommand::CLASS => self.delete_link(read(&command)?).await,
                UploadStatusCommand::CLASS => self.upload_status(&read(&command)?),
                DeleteSnapshotsDirCommand::CLASS => plain(soon(self.delete_snapshots(read(&command)?)).await),
                MoveVolumeCommand::CLASS => plain(soon(self.move_volume(read(&command)?)).await),
                ListDataStoreObjectsCommand::CLASS => self.browse(read(&command)?).await,
                QuerySnapshotZoneCopyCommand::CLASS => self.snapshot_files(read(&command)?).await,
                GetDatadisksCommand::CLASS => self.data_disks(read(&command)?).await,
                CreateDatadiskTemplateCommand::CLASS => self.create_data_disk(read(&command)?).await,
                HandleConfigDriveIsoCommand::CLASS => self.config_drive(read(&command)?).await,
                other => agent::unsupported(other),
            })
        }
        .await;
        answered.unwrap_or_else(|failure| failure)
    }

    async fn set_up(&self, command: SecStorageSetupCommand) -> Message {
        let (key, certificates) = (command.post_upload_key, command.certs);
        if let Err(error) = self.change(|s| {
            s.upload_key = key.or(s.upload_key.take());
            s.certificates = certificates.or(s.certificates.take());
        }) {
            tracing::error!(%error, "certificates and upload key are not remembered");
        }
        let Some(DataStoreTO::Nfs(nfs)) = command.store else { return agent::succeeded() };
        let url = command.sec_url.or(nfs.url).unwrap_or_default();
        let version = command.nfs_version.or(nfs.nfs_version);
        let version = version.as_deref().or(self.identity.get("nfsVersion"));
        match self.reach(&url, version).await {
            Ok(folder) => {
                let dir = folder.rsplit('/').next().map(str::to_owned);
                let details = Some("success".to_owned());
                let answer = AnswerBase { details, ..AnswerBase::ok() };
                Message::wrap(&SecStorageSetupAnswer { dir, answer })
            }
            Err(error) => agent::failed(format!("GetRootDir for {} failed due to {error}", shown(&url))),
        }
    }

    async fn set_up_vm(&self, command: SecStorageVMSetupCommand) -> Message {
        let mut details = String::new();
        let mut sites = Vec::new();
        for site in &command.allowed_internal_sites {
            let site = site.trim();
            match site.parse::<Ipv4Net>().or_else(|_| site.parse::<Ipv4Addr>().map(Ipv4Net::from)) {
                Ok(net) => sites.push(net.trunc()),
                Err(_) => details.push_str(&format!(", Error in allowing outgoing to {site}")),
            }
        }
        sites.sort();
        sites.dedup();
        for site in &sites {
            stores::route(&self.identity, &site.to_string(), self.identity.get("localgw")).await;
        }
        let login = command.copy_user_name.zip(command.copy_password);
        let changed = self.change(|s| {
            s.sites = sites;
            s.copy_login = login.or(s.copy_login.take());
        });
        match changed {
            Ok(true) => self.load_filter().await,
            Ok(false) => {}
            Err(error) => details.push_str(&format!(", {error}")),
        }
        let result = details.is_empty();
        Message::wrap(&agent::Answer {
            answer: AnswerBase { result, details: Some(details), ..AnswerBase::default() },
        })
    }

    fn set_peers(&self, command: &SecStorageFirewallCfgCommand) -> Message {
        let mut refused = Vec::new();
        let mut peers = std::collections::BTreeSet::new();
        for config in command.port_configs.iter().filter(|c| c.add) {
            let address = config.source_ip.as_deref().unwrap_or_default();
            match address.parse::<Ipv4Addr>() {
                Ok(address) => {
                    peers.insert(address);
                }
                Err(_) => refused.push(address.to_owned()),
            }
        }
        let changed = self.change(|s| {
            if !command.append {
                s.peers.clear();
            }
            s.peers.extend(peers);
        });
        match changed {
            Ok(_) if refused.is_empty() => agent::succeeded(),
            Ok(_) => agent::failed(format!("not IPv4 addresses: {}", refused.join(", "))),
            Err(error) => agent::failed(error.to_string()),
        }
    }

    async fn delete(&self, command: DeleteCommand, class: &str) -> Message {
        let Some(data) = command.data else { return agent::failed("DeleteCommand names no data") };
        let Some(path) = data.path().map(str::to_owned) else {
            if matches!(data, DataTO::Other(_)) {
                return agent::unsupported(class);
            }
            let text = "Object with null install path does not exist on image store , no need to delete";
            return plain(Ok(text.to_owned()));
        };
        let work = async {
            let store = data.store().ok_or_else(|| Failure::end("the object names no store"))?;
            let store = self.store(store, None).await?;
            let path = StorePath::parse(&path)?;
            let task = match &data {
                DataTO::Template(t) => Task::RemoveImage { store, path, id: t.id },
                DataTO::Volume(v) => Task::RemoveImage { store, path, id: v.id },
                DataTO::Snapshot(s) => {
                    let checkpoint =
                        s.checkpoint_path.as_deref().and_then(|p| p.find("checkpoints").map(|at| &p[at..]));
                    let checkpoint = checkpoint.map(StorePath::parse).transpose()?;
                    Task::RemoveSnapshot { store, path, checkpoint }
                }
                DataTO::Other(_) => return Err(Failure::end("unknown kind of object")),
            };
            self.short(task, Self::SHORT).await
        };
        let bucket = match data.store() {
            Some(DataStoreTO::S3(s3)) => s3.bucket_name.as_deref(),
            _ => None,
        };
        let (kind, id) = match &data {
            DataTO::Template(template) => ("template", Some(template.id)),
            DataTO::Volume(volume) => ("volume", Some(volume.id)),
            _ => ("snapshot", None),
        };
        plain(match (soon(work).await, bucket) {
            (Ok(Outcome::Removed(true)), None) => Ok(format!("Deleted {path}")),
            (Ok(_), None) => Ok(match id {
                Some(id) => format!("{kind} parent directory {} doesn't exist", parent(&path, id)),
                None => format!("{path} doesn't exist"),
            }),
            (Ok(_), Some(bucket)) => Ok(format!("Deleted {kind} {path} from bucket {bucket}.")),
            (Err(failure), None) => Err(failure),
            (Err(failure), Some(bucket)) => Err(Failure::end(format!(
                "Failed to delete {kind} {path} from bucket {bucket} due to the following error: {}",
                failure.text
            ))),
        })
    }

    async fn list(
        &self,
        store: Option<&DataStoreTO>,
        version: Option<&str>,
        what: Images,
    ) -> Result<(String, Vec<TemplateProp>), Failure> {
        let named = store.ok_or_else(|| Failure::end("the command names no store"))?;
        let url = match named {
            DataStoreTO::Nfs(nfs) => nfs.url.clone(),
            DataStoreTO::S3(s3) => s3.bucket_name.clone(),
            DataStoreTO::Other(_) => None,
        };
        let store = self.store(named, version).await?;
        match self.short(Task::List { store, what }, LISTING).await? {
            Outcome::Images(images) => Ok((url.unwrap_or_default(), images)),
            _ => Err(Failure::end("The listing has no result")),
        }
    }

    async fn list_templates(&self, command: ListTemplateCommand) -> Message {
        let listed =
            self.list(command.store.as_ref(), command.nfs_version.as_deref(), Images::Templates).await;
        Message::wrap(&match listed {
            Ok((url, images)) => ListTemplateAnswer {
                sec_url: Some(url),
                template_infos: images.into_iter().map(|i| (i.template_name.clone(), i)).collect(),
                answer: AnswerBase { details: Some("success".into()), ..AnswerBase::ok() },
            },
            Err(failure) => {
                ListTemplateAnswer { answer: AnswerBase::failed(failure.text), ..Default::default() }
            }
        })
    }

    async fn list_volumes(&self, command: ListVolumeCommand) -> Message {
        let listed = self.list(command.store.as_ref(), None, Images::Volumes).await;
        Message::wrap(&match listed {
            Ok((url, images)) => ListVolumeAnswer {
                sec_url: Some(url),
                template_infos: images.into_iter().map(|i| (i.id, i)).collect(),
                answer: AnswerBase { details: Some("success".into()), ..AnswerBase::ok() },
            },
            Err(failure) => {
                ListVolumeAnswer { answer: AnswerBase::failed(failure.text), ..Default::default() }
            }
        })
    }

    async fn stats(&self, command: GetStorageStatsCommand) -> Message {
        let work = async {
            let named = command.store.as_ref().ok_or_else(|| Failure::end("the command names no store"))?;
            // The server wants a number, and no request to the service tells one.
            if matches!(named, DataStoreTO::S3(_)) {
                return Ok((S3_CAPACITY, 0));
            }
            let store = self.store(named, command.nfs_version.as_deref()).await?;
            match self.short(Task::Usage { store }, Self::SHORT).await? {
                Outcome::Usage { capacity, used } => {
                    let bytes = |n| i64::try_from(n).unwrap_or(i64::MAX);
                    Ok((bytes(capacity), bytes(used)))
                }
                _ => Err(Failure::end("no result")),
            }
        };
        Message::wrap(&match soon(work).await {
            Ok((capacity_bytes, used_bytes)) => {
                GetStorageStatsAnswer { used_bytes, capacity_bytes, answer: AnswerBase::ok() }
            }
            Err(failure) => GetStorageStatsAnswer {
                answer: AnswerBase::failed(format!("Unable to get storage stats: {}", failure.text)),
                ..Default::default()
            },
        })
    }

    async fn checksum(&self, command: ComputeChecksumCommand) -> Result<String, Failure> {
        let Some(named @ DataStoreTO::Nfs(_)) = &command.store else {
            return Err(Failure::end("can't handle non nfs data store"));
        };
        let store = self.store(named, None).await?;
        let path = StorePath::parse(command.template_path.as_deref().unwrap_or_default())?;
        let task = Task::Sum { store, path, algorithm: command.algorithm };
        match self.short(task, CHECKSUM).await? {
            Outcome::Sum(sum) => Ok(sum),
            _ => Err(Failure::end("no result")),
        }
    }
}
