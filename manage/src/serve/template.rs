//! Templates and snapshots: orders to the SSVM, and how far they are (secondary storage 2.6, 2.7, 2.13).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    channel::{message::Message, server::AttachedAgent},
    command::storage::{
        CopyCmdAnswer, CopyCommand, DataTO, DownloadAnswer, DownloadCommand, DownloadProgressCommand,
        DownloadStatus, ImageFormat, SnapshotObjectTO, StoreRole,
    },
};

use super::{Manage, answer::ask, answer::ask_any, crew, store};
use crate::{
    api::SnapshotCopied,
    db::{DbError, Kind, Template, TemplateState},
    zone::StoreKind,
};

/// Account that all templates and snapshots belong to.
const ACCOUNT: i64 = 2;
/// Largest template in bytes.
const LARGEST: i64 = 50 << 30;
/// Between two looks at a download.
const POLL: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(60);
/// How long an SSVM may be away before another one takes over what it was at.
const AWAY: Duration = Duration::from_secs(30);
const COPY: Duration = Duration::from_secs(6 * 3600);

/// Begins to download a template.
pub(super) fn register(
    manage: &Arc<Manage>,
    name: &str,
    url: &str,
    format: &str,
    checksum: Option<&str>,
    store: &str,
) -> Result<Template, String> {
    let format = format.to_ascii_uppercase();
    if !ImageFormat::FILES.iter().any(|f| f.to_string() == format) {
        let known = ImageFormat::FILES.map(|f| f.to_string()).join(", ");
        return Err(format!("Format {format:?} is unknown; known are {known}"));
    }
    let zone = manage.zoned.zone();
    let known = || zone.stores.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    zone.store(store).ok_or_else(|| format!("There is no store {store:?}; known are {}", known()))?;
    let (ssvm, _) = crew::pick(manage, Kind::Ssvm)?;
    let added = manage.zoned.db.add_template(name, store, url, &format, checksum, &ssvm.name);
    let template = added
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{store} has a template {name:?} already, or is about to"))?;
    tokio::spawn(follow(manage.clone(), template.clone()));
    manage.poke.notify_one();
    Ok(template)
}

/// Goes on with what was on its way when the manager ended.
pub(super) fn resume(manage: &Arc<Manage>) -> Result<(), DbError> {
    let templates = manage.zoned.db.templates()?;
    for template in templates.into_iter().filter(|t| t.state == TemplateState::Downloading) {
        tokio::spawn(follow(manage.clone(), template));
    }
    Ok(())
}

/// Follows a download to its end. Its SSVM is waited for; when that is too long away another one begins anew.
async fn follow(manage: Arc<Manage>, mut template: Template) {
    let mut heard = Instant::now();
    while template.state == TemplateState::Downloading {
        if let Some(agent) = manage.agent(&template.ssvm) {
            heard = Instant::now();
            if let Err(reason) = look(&manage, &agent, &mut template).await
                && !agent.is_closed()
            {
                template.state = TemplateState::Failed;
                template.error = Some(reason);
            }
        } else if heard.elapsed() > AWAY
            && let Ok((other, _)) = crew::pick(&manage, Kind::Ssvm)
        {
            let text = format!("is begun anew by {}: {} is away", other.name, template.ssvm);
            manage.zoned.event(&format!("template {}", template.name), &text);
            (template.ssvm, template.job, template.percent) = (other.name, None, 0);
        }
        if let Err(error) = manage.zoned.db.put_template(&template) {
            tracing::error!("{error}");
        }
        if template.state == TemplateState::Downloading {
            tokio::time::sleep(POLL).await;
        }
    }
    let text = match &template.error {
        None => format!("is in {} as {}", template.store, template.path.as_deref().unwrap_or_default()),
        Some(error) => format!("failed in {}: {error}", template.store),
    };
    manage.zoned.event(&format!("template {}", template.name), &text);
}

/// Orders the download, or asks how far it is.
async fn look(manage: &Manage, agent: &AttachedAgent, template: &mut Template) -> Result<(), String> {
    let order = order(manage, template)?;
    let command = match &template.job {
        None => Message::wrap(&order),
        Some(job) => Message::wrap(&DownloadProgressCommand {
            job_id: Some(job.clone()),
            request: Some("GET_OR_RESTART".to_owned()),
            download: order.clone(),
        }),
    };
    // A download that failed is told by its status; the answer itself succeeds.
    let answer = ask_any(agent, command, ASK).await?;
    let answer: DownloadAnswer = answer.read().map_err(|error| format!("{error}: {}", answer.details()))?;
    take(template, &answer);
    if template.state != TemplateState::Downloading
        && let Some(job) = &template.job
    {
        let purge = DownloadProgressCommand {
            job_id: Some(job.clone()),
            request: Some("PURGE".to_owned()),
            download: order,
        };
        let _ = ask_any(agent, Message::wrap(&purge), ASK).await;
    }
    Ok(())
}

/// Takes over what an answer says.
fn take(template: &mut Template, answer: &DownloadAnswer) {
    if let Some(job) = answer.job_id.clone().filter(|job| !job.is_empty()) {
        template.job = Some(job);
    }
    template.percent = i64::from(answer.download_pct);
    let reason = [&answer.error_string, &answer.answer.details].into_iter().flatten();
    let reason = reason.map(|text| text.trim()).find(|text| !text.is_empty()).unwrap_or("no reason given");
    match answer.download_status {
        DownloadStatus::Downloaded => {
            template.state = TemplateState::Ready;
            template.percent = 100;
            template.path = answer.install_path.clone();
            template.size = answer.template_size;
            template.physical_size = answer.template_physical_size;
            template.stored_checksum = answer.checksum.clone();
        }
        DownloadStatus::DownloadError | DownloadStatus::Unknown | DownloadStatus::Abandoned => {
            template.state = TemplateState::Failed;
            template.error = Some(reason.to_owned());
        }
        // Not begun and without a job: it was refused.
        DownloadStatus::NotDownloaded if template.job.is_none() => {
            template.state = TemplateState::Failed;
            template.error = Some(reason.to_owned());
        }
        DownloadStatus::NotDownloaded | DownloadStatus::DownloadInProgress => {}
    }
}

fn order(manage: &Manage, template: &Template) -> Result<DownloadCommand, String> {
    let zone = manage.zoned.zone();
    let zone_store = zone.store(&template.store);
    let zone_store =
        zone_store.ok_or_else(|| format!("the zone has no store {:?} any longer", template.store))?;
    let name = format!("{}-{ACCOUNT}-{}", template.id, template.name);
    let folder = format!("template/tmpl/{ACCOUNT}/{}", template.id);
    let (install_path, sec_url) = match &zone_store.kind {
        StoreKind::Nfs { url, .. } => (folder, Some(url.clone())),
        StoreKind::S3 { .. } => (format!("{folder}/{name}"), None),
    };
    Ok(DownloadCommand {
        hvm: true,
        description: Some(template.name.clone()),
        checksum: template.checksum.clone(),
        max_download_size_in_bytes: Some(LARGEST),
        id: template.id,
        install_path: Some(install_path),
        store: Some(store::data_store(&manage.zoned.db, &zone, zone_store, StoreRole::Image)?),
        url: Some(template.url.clone()),
        format: ImageFormat::FILES.into_iter().find(|f| f.to_string() == template.format),
        account_id: ACCOUNT,
        name: Some(name),
        sec_url,
        ..DownloadCommand::default()
    })
}

/// Copies a snapshot from store to store and gives its new path.
pub(super) async fn copy(
    manage: &Manage,
    from: (&str, &str),
    to: (&str, &str),
) -> Result<SnapshotCopied, String> {
    let zone = manage.zoned.zone();
    let find = |name: &str| {
        let found = zone.store(name);
        found.ok_or_else(|| format!("There is no store {name:?}"))
    };
    let (source, target) = (find(from.0)?, find(to.0)?);
    // Which copy the SSVM makes is decided by the roles (secondary storage 2.13).
    let (source_role, target_role) = match (&source.kind, &target.kind) {
        (StoreKind::Nfs { .. }, StoreKind::S3 { .. }) => (StoreRole::ImageCache, StoreRole::Image),
        (StoreKind::S3 { .. }, StoreKind::Nfs { .. }) => (StoreRole::Image, StoreRole::ImageCache),
        (StoreKind::Nfs { .. }, StoreKind::Nfs { .. }) => (StoreRole::Image, StoreRole::Image),
        (StoreKind::S3 { .. }, StoreKind::S3 { .. }) => {
            return Err("A copy from S3 to S3 is none that an SSVM makes; copy to NFS first".to_owned());
        }
    };
    let name = from.1.rsplit('/').next().unwrap_or(from.1).to_owned();
    let snapshot = |path: &str, store| {
        DataTO::Snapshot(Box::new(SnapshotObjectTO {
            path: Some(path.trim_matches('/').to_owned()),
            data_store: Some(store),
            name: Some(name.clone()),
            hypervisor_type: Some("KVM".to_owned()),
            account_id: ACCOUNT,
            ..SnapshotObjectTO::default()
        }))
    };
    let command = CopyCommand {
        source: Some(snapshot(from.1, store::data_store(&manage.zoned.db, &zone, source, source_role)?)),
        destination: Some(snapshot(to.1, store::data_store(&manage.zoned.db, &zone, target, target_role)?)),
        ..CopyCommand::default()
    };
    let (ssvm, agent) = crew::pick(manage, Kind::Ssvm)?;
    let _busy = crew::Busy::new(manage, &ssvm.name);
    let answer: CopyCmdAnswer = ask(&agent, Message::wrap(&command), COPY).await?;
    let path = answer.new_data.as_ref().and_then(DataTO::path).ok_or("The SSVM told no new path")?;
    let copied = SnapshotCopied { store: target.name.clone(), path: path.to_owned() };
    let event = format!("was copied from {} to {}:{}", source.name, copied.store, copied.path);
    manage.zoned.event(&format!("snapshot {name}"), &event);
    Ok(copied)
}
