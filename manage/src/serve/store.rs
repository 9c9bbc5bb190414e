//! What an SSVM is told when it joins (secondary storage 1.10), and stores as the wire names them.

use std::{sync::Arc, time::Duration};

use common::{
    channel::{message::Message, server::AttachedAgent},
    command::{
        Secret,
        storage::{
            DataStoreTO, NfsTO, S3TO, SecStorageFirewallCfgCommand, SecStorageSetupAnswer,
            SecStorageSetupCommand, SecStorageVMSetupCommand, StoreRole,
        },
    },
};

use super::{Manage, answer::ask};
use crate::{
    db::{Db, random_word},
    ids::random_uuid,
    zone::{Store, StoreKind, Zone},
};

/// Time between two attempts to attach a store.
const AGAIN: Duration = Duration::from_secs(15);
const ATTACH: Duration = Duration::from_secs(300);

/// A store as the wire names it.
pub(super) fn data_store(
    db: &Db,
    zone: &Zone,
    store: &Store,
    role: StoreRole,
) -> Result<DataStoreTO, String> {
    let uuid = db.secret(&format!("store/{}", store.name), random_uuid).map_err(|error| error.to_string())?;
    Ok(match &store.kind {
        StoreKind::Nfs { url, version } => DataStoreTO::Nfs(NfsTO {
            url: Some(url.clone()),
            role: Some(role),
            uuid: Some(uuid),
            nfs_version: version.clone(),
        }),
        StoreKind::S3 { endpoint, bucket, access_key, secret_key, https } => {
            let position = zone.stores.iter().position(|s| s.name == store.name).unwrap_or(0);
            DataStoreTO::S3(Box::new(S3TO {
                id: i64::try_from(position).unwrap_or(0) + 1,
                uuid: Some(uuid),
                access_key: Some(Secret::new(access_key.as_str())),
                secret_key: Some(Secret::new(secret_key.as_str())),
                end_point: Some(endpoint.clone()),
                bucket_name: Some(bucket.clone()),
                https_flag: Some(*https),
                use_tcp_keep_alive: Some(true),
                connection_timeout: Some(30_000),
                socket_timeout: Some(30_000),
                max_error_retry: Some(3),
                ..S3TO::default()
            }))
        }
    })
}

fn attach(db: &Db, zone: &Zone, store: &Store) -> Result<Option<Message>, String> {
    let StoreKind::Nfs { url, version } = &store.kind else { return Ok(None) };
    let key = db.secret("upload.key", || random_word(32)).map_err(|error| error.to_string())?;
    Ok(Some(Message::wrap(&SecStorageSetupCommand {
        store: Some(data_store(db, zone, store, StoreRole::Image)?),
        sec_url: Some(url.clone()),
        post_upload_key: Some(Secret::new(key)),
        nfs_version: version.clone(),
        ..SecStorageSetupCommand::default()
    })))
}

/// The commands of a join. What concerns no store comes first: a store that cannot be attached
/// shall hold up nothing else.
pub(super) fn setup(db: &Db, zone: &Zone) -> Result<Vec<Message>, String> {
    let password = db.secret("copy.password", || random_word(16)).map_err(|error| error.to_string())?;
    let mut commands = vec![
        Message::wrap(&SecStorageFirewallCfgCommand::default()),
        Message::wrap(&SecStorageVMSetupCommand {
            allowed_internal_sites: zone.internal_sites.iter().map(ToString::to_string).collect(),
            copy_user_name: Some("cloud".to_owned()),
            copy_password: Some(Secret::new(password)),
            ..SecStorageVMSetupCommand::default()
        }),
    ];
    for store in &zone.stores {
        commands.extend(attach(db, zone, store)?);
    }
    Ok(commands)
}

/// Takes the answers to [`setup`]: which stores are attached.
pub(super) fn attached(manage: &Manage, ssvm: &str, answers: &[Message]) {
    let zone = manage.zoned.zone();
    let nfs = zone.stores.iter().filter(|s| matches!(s.kind, StoreKind::Nfs { .. }));
    for (store, answer) in nfs.zip(answers.iter().skip(2)) {
        note(
            manage,
            ssvm,
            &store.name,
            answer.result().then_some(()).ok_or_else(|| answer.details().to_owned()),
        );
    }
    for answer in answers.iter().take(2).filter(|answer| !answer.result()) {
        manage.zoned.event(ssvm, &format!("set-up: {}", answer.details()));
    }
}

fn note(manage: &Manage, ssvm: &str, store: &str, result: Result<(), String>) {
    let key = (store.to_owned(), ssvm.to_owned());
    let mut seen = manage.seen();
    let news = match &result {
        Ok(()) => seen.stores.remove(&key).is_some().then(|| format!("is attached by {ssvm} after all")),
        Err(reason) => {
            let before = seen.stores.insert(key, reason.clone());
            (before.as_ref() != Some(reason)).then(|| format!("cannot be attached by {ssvm}: {reason}"))
        }
    };
    drop(seen);
    if let Some(news) = news {
        manage.zoned.event(store, &news);
    }
}

/// Tries the stores that could not be attached until they are, or the agent has gone.
pub(super) async fn attach_again(manage: Arc<Manage>, agent: AttachedAgent) {
    loop {
        let own = |(store, ssvm): &(String, String)| (ssvm == agent.name()).then(|| store.clone());
        let failed: Vec<String> = manage.seen().stores.keys().filter_map(own).collect();
        if failed.is_empty() || agent.is_closed() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
        for name in failed {
            let zone = manage.zoned.zone();
            let Some(store) = zone.store(&name) else { continue };
            if let Ok(Some(command)) = attach(&manage.zoned.db, &zone, store) {
                let result = ask::<SecStorageSetupAnswer>(&agent, command, ATTACH).await;
                note(&manage, agent.name(), &name, result.map(drop));
            }
        }
    }
}
