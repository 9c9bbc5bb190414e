//! The web service as the core sees it: its sockets and certificate, what it serves to whom, and the links
//! that the management server makes and takes away.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{
    boot::Identity,
    channel::{
        message::{AnswerBase, Message},
        tls::{Authority, Issue, KeyKind},
    },
    command::{
        Secret, agent,
        storage::{
            Certificates, CreateEntityDownloadURLAnswer, CreateEntityDownloadURLCommand,
            DeleteEntityDownloadURLCommand,
        },
    },
    handover::Offer,
    paths::Paths,
    persist::PersistError,
};

use super::{Core, mount, state::Settings, stores::soon};
use crate::{
    layout::StorePath,
    order::{Failure, Task},
    store::StoreSpec,
    web::{Link, SITE, Site, Tls},
};

/// Links at a time.
const MOST_LINKS: usize = 10_000;
/// A link that nobody took away is taken away after this many seconds: 48 hours.
const LINK_LIFE: u64 = 48 * 3600;
/// Longest wait for serve to know of a change.
const APPLY: Duration = Duration::from_secs(5);
/// Days that the VM's own certificate is valid.
const DAYS: u32 = 3650;

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A certificate of the VM's own, for as long as the management server has delivered none.
pub(super) fn own_certificate(paths: &Paths, identity: &Identity) -> Option<Tls> {
    let folder = paths.state("ssvm").join("authority");
    let address = identity.nic(2).and_then(|nic| nic.address);
    let wish = Issue {
        names: vec![identity.name.clone()],
        addresses: address.map(IpAddr::V4).into_iter().collect(),
        days: DAYS,
    };
    let issued = Authority::open(&folder, &identity.name, KeyKind::P256)
        .and_then(|authority| authority.issue(&wish, KeyKind::P256));
    match issued {
        Ok(issued) => Some(Tls { chain: issued.certificate, key: Secret::new(issued.private_key) }),
        Err(error) => {
            tracing::error!(%error, "there is no https until certificates are delivered");
            None
        }
    }
}

/// Key and chain of certificates that were delivered whole.
fn delivered(certificates: &Certificates) -> Option<Tls> {
    let (key, own) = (certificates.key.clone()?, certificates.certificate.clone()?);
    Some(Tls { chain: format!("{own}\n{}", certificates.chain.as_deref().unwrap_or_default()), key })
}

impl Core {
    /// Declares the sockets and what is served.
    pub(super) fn offer_web(&self) {
        let public = self.identity.nic(2).and_then(|nic| nic.address);
        let offers = public.into_iter().flat_map(|address| [("http", address, 80), ("https", address, 443)]);
        self.serve.offer(offers.map(|(scheme, address, port)| {
            let address = SocketAddr::from((address, port));
            Offer::new(format!("{scheme} {address}"), move || TcpListener::bind(address).map(OwnedFd::from))
        }));
        self.publish();
    }

    /// Changes the settings, and what is served with them.
    pub(super) fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<bool, PersistError> {
        let changed = self.state.change(change)?;
        if changed {
            self.publish();
        }
        Ok(changed)
    }

    /// Tells serve what is served; returns the version to wait for.
    fn publish(&self) -> Option<u64> {
        let settings = self.state.get();
        let tls = settings.certificates.as_ref().and_then(delivered).or_else(|| self.own_tls.clone());
        let site = Site {
            tls,
            peers: settings.peers,
            copy_login: settings.copy_login,
            parent: mount::parent(&self.paths).to_string_lossy().into_owned(),
            mounts: settings.exports.into_keys().collect(),
            links: settings.links,
            upload_key: settings.upload_key,
            upload_by_https: self.identity.get("useHttpsToUpload").is_none_or(|word| word != "false"),
        };
        match self.serve.publish(SITE, &site) {
            Ok(version) => Some(version),
            Err(error) => {
                tracing::error!(%error, "what is served stays as it was");
                None
            }
        }
    }

    async fn published(&self) {
        if let Some(version) = self.publish()
            && !self.serve.applied(version, APPLY).await
        {
            tracing::warn!("serve does not know of a link yet");
        }
    }

    /// The store at a mount folder.
    async fn mounted_as(&self, name: &str) -> Result<StoreSpec, Failure> {
        let export = self.state.get().exports.get(name).cloned();
        let export = export.ok_or_else(|| Failure::end(format!("no store is mounted as {name}")))?;
        let folder = self.mounted(&export, false).await.map_err(|e| Failure::end(e.to_string()))?;
        Ok(StoreSpec::Folder(folder))
    }

    /// Offers a file by a link.
    pub(super) async fn create_link(&self, command: CreateEntityDownloadURLCommand) -> Message {
        let work = async {
            let mount = command.parent.as_deref().unwrap_or_default().trim_matches('/').to_owned();
            let path = StorePath::parse(command.install_path.as_deref().unwrap_or_default())?;
            let name = [command.file_path.as_deref(), command.file_name.as_deref().or(Some(""))]
                .into_iter()
                .flatten()
                .map(|word| {
                    component(word).ok_or_else(|| Failure::end(format!("Error in linking  err={word:?}")))
                })
                .collect::<Result<Vec<_>, _>>()?
                .join("/");
            let store = self.mounted_as(&mount).await?;
            self.short(Task::Check { store, path: path.clone() }, Self::SHORT).await.map_err(|failure| {
                tracing::warn!(%path, reason = failure.text, "no link");
                Failure::end(format!("Error in finding the file /mnt/SecStorage/{mount}/{path}"))
            })?;
            if self.state.get().links.len() >= MOST_LINKS {
                return Err(Failure::end(format!("{MOST_LINKS} links are there already")));
            }
            let link = Link { mount, path, made: now() };
            self.change(|s| {
                s.links.insert(name, link);
            })
            .map_err(|e| Failure::end(e.to_string()))?;
            self.published().await;
            Ok(())
        };
        let answer = match soon(work).await {
            Ok(()) => AnswerBase { details: Some(String::new()), ..AnswerBase::ok() },
            Err(failure) => AnswerBase::failed(failure.text),
        };
        Message::wrap(&CreateEntityDownloadURLAnswer { answer })
    }

    /// Takes a link away, and the file where it was made for the link alone.
    pub(super) async fn delete_link(&self, command: DeleteEntityDownloadURLCommand) -> Message {
        let url = command.extract_url.as_deref().unwrap_or_default();
        let path = url.split_once("://").map_or(url, |(_, rest)| rest).split(['?', '#']).next();
        let name = path.and_then(|path| path.split_once("/userdata/")).map(|(_, name)| name.to_owned());
        let removed = name.and_then(|name| {
            self.change(|s| {
                s.links.remove(&name);
            })
            .err()
        });
        if let Some(error) = removed {
            return agent::failed(format!("Error in deleting symlink: {error}"));
        }
        self.published().await;
        let given = command.path.as_deref().unwrap_or_default();
        let work = async {
            let path = match command.kind.as_deref() {
                Some("VOLUME") => StorePath::parse(given)?,
                Some("SNAPSHOT") => {
                    StorePath::parse(&format!("{}_temp", given.strip_suffix("_temp").unwrap_or(given)))?
                }
                _ => return Ok(()),
            };
            path.removable()?;
            let store =
                self.mounted_as(command.parent_path.as_deref().unwrap_or_default().trim_matches('/')).await?;
            self.short(Task::RemoveFile { store, path }, Self::SHORT).await.map(|_| ())
        };
        match (soon(work).await, command.kind.as_deref()) {
            (Ok(()), _) => Message::wrap(&agent::Answer {
                answer: AnswerBase { details: Some(String::new()), ..AnswerBase::ok() },
            }),
            (Err(failure), Some("SNAPSHOT")) => {
                tracing::warn!(path = given, reason = failure.text, "a temporary snapshot stays");
                agent::failed(format!("Error deleting temporary snapshot {given}_temp."))
            }
            (Err(failure), _) => {
                agent::failed(format!("Error in deleting volume {given} : {}", failure.text))
            }
        }
    }

    /// Takes links away that are older than any that the management server knows.
    pub(super) fn expire_links(&self) {
        let now = now();
        let changed = self.change(|s| s.links.retain(|_, link| now.saturating_sub(link.made) < LINK_LIFE));
        match changed {
            Ok(true) => tracing::info!("old links are taken away"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "old links stay"),
        }
    }
}

/// A word that is one visible component of a URL's path.
fn component(word: &str) -> Option<&str> {
    let good = StorePath::parse(word).is_ok_and(|path| path.as_str() == word && path.parent().is_none());
    (good && !word.starts_with('.') && !word.contains(['%', '?', '#'])).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_a_link() {
        for good in ["0b1c2d3e", "Debian-12.qcow2", "a b"] {
            assert_eq!(component(good), Some(good));
        }
        for bad in ["", "a/b", "..", ".htaccess", "a%2fb", "a?b", "/a"] {
            assert_eq!(component(bad), None, "{bad}");
        }
    }
}
