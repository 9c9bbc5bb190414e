//! From the store that a command names to the one that a task uses: exports are mounted on the way,
//! endpoints are let through the packet filter.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::PoisonError,
    time::Duration,
};

use common::{
    boot::Identity,
    command::{
        Secret,
        storage::{DataStoreTO, NfsTO, S3TO},
    },
    program,
};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    Core,
    export::{Export, shown},
    mount, nft,
};
use crate::{
    layout::{StorePath, mount_name},
    order::{Failure, FailureKind, Outcome, Task},
    store::{BucketSpec, StoreSpec},
};

/// Limits of an S3 client where the command names none, in milliseconds.
const CONNECT_LIMIT: u64 = 10_000;
const SILENCE_LIMIT: u64 = 50_000;
/// Attempts after the first where the command names no number.
const RETRIES: i64 = 3;
/// Longest wait for a short task.
const SHORT: Duration = Duration::from_secs(60);
/// Longest wait for all that a short command does.
const SOON: Duration = Duration::from_secs(58);
/// Longest wait until an export is there, which goes on being mounted after it.
const REACH: Duration = Duration::from_secs(55);
/// Longest wait for the rights of a folder to be changed.
pub(super) const OPENING: Duration = Duration::from_secs(20);
/// Longest wait for the address of an endpoint.
const LOOKUP: Duration = Duration::from_secs(10);

impl Core {
    /// The store of a command, ready to be used.
    pub(super) async fn store(
        &self,
        store: &DataStoreTO,
        version: Option<&str>,
    ) -> Result<StoreSpec, Failure> {
        match store {
            DataStoreTO::Nfs(nfs) => self.export(nfs, version).await,
            DataStoreTO::S3(s3) => self.bucket(s3).await,
            DataStoreTO::Other(_) => {
                Err(Failure::end(format!("Unsupported image data store: {}", store.class())))
            }
        }
    }

    async fn export(&self, nfs: &NfsTO, version: Option<&str>) -> Result<StoreSpec, Failure> {
        let url = nfs.url.clone().unwrap_or_default();
        let version = version.or(nfs.nfs_version.as_deref()).or(self.identity.get("nfsVersion"));
        self.reach(&url, version).await.map(StoreSpec::Folder).map_err(|error| {
            Failure::end(format!(
                "Failed to get root directory from secondary storage URL [{}], using NFS version \
                 [{}], due to [{error}].",
                shown(&url),
                version.unwrap_or("null")
            ))
        })
    }

    /// The folder of an export that a URL names, within the time that a command may wait.
    pub(super) async fn reach(&self, url: &str, version: Option<&str>) -> Result<String, mount::MountError> {
        let reached = async {
            let export = Export::parse(url, version).await?;
            self.mounted(&export, false).await
        };
        let late = |_| mount::MountError::Late { seconds: REACH.as_secs() };
        timeout(REACH, reached).await.unwrap_or_else(|e| Err(late(e)))
    }

    /// The folder of an export.
    pub(super) async fn mounted(&self, export: &Export, afresh: bool) -> Result<String, mount::MountError> {
        let name = mount_name(export.address, &export.path);
        if let IpAddr::V4(address) = export.address
            && self.routed.lock().unwrap_or_else(PoisonError::into_inner).insert(address)
        {
            route(&self.identity, &address.to_string(), storage_gateway(&self.identity)).await;
        }
        // One that was never mounted is looked after, too.
        let before = self.state.get().exports.get(&name).cloned();
        if before.is_none() {
            self.remember(&name, export);
        }
        let afresh = afresh || before.as_ref().is_some_and(|before| export.differs(before));
        let folder = self.mounts.ensure(export, afresh).await?;
        self.remember(&name, export);
        Ok(folder.to_string_lossy().into_owned())
    }

    fn remember(&self, name: &str, export: &Export) {
        let changed = self.change(|s| {
            if s.exports.get(name) != Some(export) {
                s.exports.insert(name.to_owned(), export.clone());
            }
        });
        if let Err(error) = changed {
            tracing::error!(%error, "an export is not remembered");
        }
    }

    async fn bucket(&self, s3: &S3TO) -> Result<StoreSpec, Failure> {
        let secret = |key: &Option<Secret>| key.clone().unwrap_or_default();
        let bucket = s3.bucket_name.clone().filter(|b| !b.trim().is_empty());
        let bucket = bucket.ok_or_else(|| Failure::end("the S3 store names no bucket"))?;
        let endpoint = endpoint(s3);
        self.let_through(&endpoint).await;
        let path_style = match virtual_host(&endpoint, &bucket) {
            Some(host) => !self.let_through(&host).await,
            None => true,
        };
        let limit = |given: Option<i64>, default| {
            given.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0).unwrap_or(default)
        };
        let retries = s3.max_error_retry.unwrap_or(RETRIES).clamp(0, 20);
        let spec = StoreSpec::Bucket(Box::new(BucketSpec {
            region: region(&endpoint),
            endpoint: endpoint.clone(),
            bucket: bucket.clone(),
            access_key: secret(&s3.access_key),
            secret_key: secret(&s3.secret_key),
            path_style,
            old_signature: s3.signer.as_deref() == Some("S3SignerType"),
            connect_limit: limit(s3.connection_timeout, CONNECT_LIMIT),
            silence_limit: limit(s3.socket_timeout, SILENCE_LIMIT),
            attempts: u32::try_from(retries + 1).unwrap_or(1),
            trust: self.trust(),
        }));
        let name = format!("{endpoint}/{bucket}");
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).insert(name, spec.clone());
        Ok(spec)
    }

    /// Lets requests to an endpoint out, also where it lies on the management network. Whether its name is known.
    async fn let_through(&self, endpoint: &str) -> bool {
        let Some((scheme, rest)) = endpoint.split_once("://") else { return false };
        let authority = rest.split('/').next().unwrap_or_default();
        let default = if scheme == "http" { 80 } else { 443 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().unwrap_or(default)),
            None => (authority, default),
        };
        let looked = timeout(LOOKUP, tokio::net::lookup_host((host, port))).await;
        let Ok(Ok(found)) = looked else { return false };
        let found: Vec<Ipv4Addr> = found
            .filter_map(|a| match a.ip() {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            })
            .collect();
        let changed = self.change(|s| s.endpoints.extend(found.into_iter().map(|a| (a, port))));
        if matches!(changed, Ok(true)) {
            self.load_filter().await;
        }
        true
    }

    /// Puts the packet filter of the settings in force; a failure is a cause of bad health.
    pub(super) async fn load_filter(&self) {
        let (identity, settings) = (self.identity.clone(), self.state.get());
        let loaded = spawn_blocking(move || nft::load(&identity, &settings)).await;
        let outcome = match loaded {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &outcome {
            tracing::error!(error, "the packet filter stays as it was");
        }
        self.health.report("firewall", outcome);
    }

    /// Certificates that downloads trust beside those of the system.
    pub(super) fn trust(&self) -> Vec<String> {
        self.state.get().certificates.and_then(|c| c.root).into_iter().collect()
    }

    /// Gives a short task. Where the mount has gone stale it is made anew and the task given once more.
    pub(super) async fn short(&self, task: Task, limit: Duration) -> Result<Outcome, Failure> {
        let stores = stores_of(&task);
        match self.workshop.call(task.clone(), limit).await {
            Err(failure) if self.helped(&failure, &stores).await => self.workshop.call(task, limit).await,
            other => other,
        }
    }

    /// The limit of most short tasks.
    pub(super) const SHORT: Duration = SHORT;

    /// Does what may help against a failure; `true` where the task is worth another try.
    pub(super) async fn helped(&self, failure: &Failure, stores: &[(StoreSpec, Option<StorePath>)]) -> bool {
        match failure.kind {
            FailureKind::Stale => {
                for (store, _) in stores {
                    let StoreSpec::Folder(folder) = store else { continue };
                    let name = folder.rsplit('/').next().unwrap_or_default();
                    let Some(export) = self.state.get().exports.get(name).cloned() else { continue };
                    tracing::warn!(folder, reason = %failure.text, "mounting anew");
                    if let Err(error) = self.mounted(&export, true).await {
                        tracing::error!(%error, "the export is lost");
                        return false;
                    }
                }
                true
            }
            FailureKind::Denied => {
                let mut any = false;
                for (store, path) in stores {
                    if let (StoreSpec::Folder(root), Some(path)) = (store, path) {
                        let (root, path) = (root.clone(), path.clone());
                        let opened = spawn_blocking(move || crate::store::open_up(&root, &path));
                        any |= matches!(timeout(OPENING, opened).await, Ok(Ok(true)));
                    }
                }
                any
            }
            _ => false,
        }
    }
}

/// Ends a short command in time: a mount, a task and what may help against its failure could take a while each.
pub(super) async fn soon<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::end(format!("the store did not answer within {} s", SOON.as_secs()));
    timeout(SOON, work).await.unwrap_or_else(|_| Err(late()))
}

/// The stores that a task touches, with the place in each.
pub(super) fn stores_of(task: &Task) -> Vec<(StoreSpec, Option<StorePath>)> {
    match task {
        Task::Fetch(t) => vec![(t.store.clone(), Some(t.folder.clone()))],
        Task::Copy(t) => {
            vec![(t.source.clone(), Some(t.from.clone())), (t.destination.clone(), Some(t.folder.clone()))]
        }
        Task::RemoveSnapshot { store, path, checkpoint } => {
            let places = std::iter::once(path).chain(checkpoint);
            places.map(|place| (store.clone(), Some(place.clone()))).collect()
        }
        Task::RemoveImage { store, path, .. }
        | Task::RemoveTree { store, path }
        | Task::RemoveFile { store, path }
        | Task::Move { store, from: path, .. }
        | Task::Parts { store, path }
        | Task::Check { store, path }
        | Task::Discard { store, path, .. }
        | Task::Write { store, path, .. }
        | Task::Sum { store, path, .. } => vec![(store.clone(), Some(path.clone()))],
        Task::Disks { store, package, .. } => vec![(store.clone(), Some(package.clone()))],
        Task::Disk(t) => {
            vec![(t.store.clone(), Some(t.disk.clone())), (t.store.clone(), Some(t.folder.clone()))]
        }
        Task::Browse { store, path, .. } => vec![(store.clone(), path.clone())],
        Task::List { store, .. }
        | Task::Usage { store }
        | Task::Probe { store, .. }
        | Task::Weigh { store, .. }
        | Task::Sweep { store, .. } => vec![(store.clone(), None)],
    }
}

/// URL of the service; empty for AWS.
fn endpoint(s3: &S3TO) -> String {
    let given = s3.end_point.as_deref().unwrap_or_default().trim().trim_end_matches('/');
    if given.is_empty() || given.contains("://") {
        return given.to_owned();
    }
    let scheme = if s3.https_flag == Some(false) { "http" } else { "https" };
    format!("{scheme}://{given}")
}

/// The URL that names a bucket in its host; `None` where the service has no name, or the bucket's is none that fits
/// (a dot in it fits no certificate).
fn virtual_host(endpoint: &str, bucket: &str) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let host = rest.split('/').next()?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let fits = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(letters)
        && bucket.split('.').all(|l| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-'))
        && (scheme == "http" || !bucket.contains('.'));
    (!address && fits).then(|| format!("{scheme}://{bucket}.{rest}"))
}

/// Region in the name of an AWS endpoint, else the one that every service takes.
fn region(endpoint: &str) -> String {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let labels: Vec<&str> = host.split(['.', '/', ':']).collect();
    match labels[..] {
        ["s3", region, "amazonaws", ..] => region.to_owned(),
        [first, "amazonaws", ..] => first.strip_prefix("s3-").unwrap_or("us-east-1").to_owned(),
        _ => "us-east-1".to_owned(),
    }
}

/// Next hop to stores.
fn storage_gateway(identity: &Identity) -> Option<&str> {
    identity.get("storagegateway").or(identity.get("localgw"))
}

/// Routes a destination, unless a NIC is in its network or no next hop is known.
pub(super) async fn route(identity: &Identity, destination: &str, gateway: Option<&str>) {
    let Some(gateway) = gateway.map(str::to_owned) else { return };
    let near =
        |address: Ipv4Addr| identity.nics.iter().filter_map(|n| n.ipv4()).any(|n| n.contains(&address));
    let first = destination.split('/').next().and_then(|a| a.parse::<Ipv4Addr>().ok());
    if first.is_none_or(near) || gateway.parse::<Ipv4Addr>().is_ok_and(|g| !near(g)) {
        return;
    }
    let words = ["route", "replace", destination, "via", &gateway].map(str::to_owned);
    let done = spawn_blocking(move || program::run("ip", words, b"", Duration::from_secs(10))).await;
    if let Ok(Err(error)) = done {
        tracing::warn!(destination, %error, "no route");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_regions() {
        let of = |point: &str, https: Option<bool>| {
            endpoint(&S3TO { end_point: Some(point.into()), https_flag: https, ..S3TO::default() })
        };
        assert_eq!(of("10.0.0.9:9000", Some(false)), "http://10.0.0.9:9000");
        assert_eq!(of("s3.example.org", None), "https://s3.example.org");
        assert_eq!(of("http://h:1/", Some(true)), "http://h:1");
        assert_eq!(of(" ", None), "");
        assert_eq!(
            virtual_host("http://s3.zone:7480/x", "b-1.z").as_deref(),
            Some("http://b-1.z.s3.zone:7480/x")
        );
        for (endpoint, bucket) in [
            ("https://s3.zone", "a.b"),
            ("http://10.0.0.9:9000", "abc"),
            ("http://[2001:db8::1]", "abc"),
            ("http://s3.zone", "Abc"),
            ("http://s3.zone", "-abc"),
            ("", "abc"),
        ] {
            assert_eq!(virtual_host(endpoint, bucket), None, "{endpoint} {bucket}");
        }
        assert_eq!(region("https://s3.eu-west-1.amazonaws.com"), "eu-west-1");
        assert_eq!(region("https://s3-eu-west-1.amazonaws.com"), "eu-west-1");
        assert_eq!(region("http://10.0.0.9:9000"), "us-east-1");
    }
}
