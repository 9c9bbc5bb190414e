//! The management server that a secondary storage VM joins, and what it asks of it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    channel::{
        message::{Message, Wire},
        server::{Admission, AttachedAgent, Candidate, Manager, SendOptions, Server, ServerConfig},
        tls::{Authority, ClientPolicy, KeyKind, Revoked, ServerTls},
    },
    command::{
        agent::{ReadyCommand, SetupMsListCommand},
        storage::{DownloadAnswer, DownloadCommand, DownloadProgressCommand, DownloadStatus},
    },
};
use tokio::{sync::watch, time::timeout};

use super::LIMIT;

/// Address of the management server, on the VM's management network.
pub(super) const SERVER: &str = "10.1.1.5";
/// Address of another one; an NFS server's, too.
const SECOND: &str = "10.1.1.7";

struct Office {
    seen: watch::Sender<Option<AttachedAgent>>,
    /// Public address of the VM.
    public: &'static str,
}

impl Manager for Office {
    async fn admit(&self, candidate: &Candidate) -> Result<Admission, String> {
        assert_eq!(candidate.text("guid"), "s-2-VM-NfsSecondaryStorageResource");
        assert_eq!(candidate.text("publicIpAddress"), self.public);
        Ok(Admission {
            host_id: 4,
            host_uuid: "77777777-0000-4000-8000-000000000004".into(),
            host_name: "s-2-VM".into(),
            setup: vec![],
            ready: ReadyCommand::default(),
        })
    }

    async fn attached(&self, agent: &AttachedAgent) {
        self.seen.send_replace(Some(agent.clone()));
    }
}

/// The line of boot arguments of a VM with this public address.
pub(super) fn boot_line(public: &str) -> String {
    format!(
        "template=domP type=secstorage host={SERVER} port=8250 name=s-2-VM zone=1 pod=1 guid=s-2-VM \
         resource=org.apache.cloudstack.storage.resource.NfsSecondaryStorageResource workers=5 \
         instance=SecStorage sslcopy=false role=templateProcessor mtu=1500 eth2ip={public} \
         eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=169.254.1.2 eth0mask=255.255.0.0 \
         eth1ip=10.1.1.21 eth1mask=255.255.255.0 mgmtcidr=10.1.1.0/24 localgw=10.1.1.1 nfsVersion=null\n"
    )
}

/// A management server; it stops with the runtime.
pub struct Desk {
    seen: watch::Receiver<Option<AttachedAgent>>,
    office: Arc<Office>,
    authority: Authority,
    server: Mutex<Server>,
}

/// Listens at an address.
async fn bind(authority: &Authority, address: &str, office: &Arc<Office>) -> Server {
    let address: SocketAddr = format!("{address}:8250").parse().unwrap();
    let policy = ClientPolicy { strict: false, allow_expired: true };
    let tls = ServerTls::new(authority, vec![], vec![address.ip()], policy, Revoked::default());
    Server::bind(address, ServerConfig::default(), tls.unwrap(), office.clone()).await.unwrap()
}

impl Desk {
    /// Listens at its address for a VM with this public one; its authority lies in `folder`.
    pub(super) async fn open(folder: &Path, public: &'static str) -> Self {
        let authority = Authority::open(&folder.join("ca"), "ca.suite", KeyKind::P256).unwrap();
        let (sender, seen) = watch::channel(None);
        let office = Arc::new(Office { seen: sender, public });
        let server = Mutex::new(bind(&authority, SERVER, &office).await);
        Self { seen, office, authority, server }
    }

    /// A second management server, of which the VM is told; the first one, to be dropped.
    pub async fn second_server(&self) -> Server {
        let second = bind(&self.authority, SECOND, &self.office).await;
        let command = SetupMsListCommand {
            ms_list: vec![SERVER.into(), SECOND.into()],
            lb_algorithm: "static".into(),
            ..SetupMsListCommand::default()
        };
        assert!(self.ask(&command).await.result());
        std::mem::replace(&mut *self.server.lock().unwrap(), second)
    }

    /// Waits until a VM is there that is not about to go.
    pub async fn joined(&self) {
        let mut seen = self.seen.clone();
        let there = seen.wait_for(|a| a.as_ref().is_some_and(|a| !a.is_closed()));
        timeout(LIMIT, there).await.expect("a VM joins").expect("the office is open");
    }

    /// Waits for the next VM that joins from now on.
    pub fn next(&self) -> impl Future<Output = ()> + use<> {
        let mut seen = self.seen.clone();
        seen.mark_unchanged();
        async move { timeout(LIMIT, seen.changed()).await.expect("a VM joins").expect("the office is open") }
    }

    /// The VM that joined last.
    pub fn agent(&self) -> AttachedAgent {
        self.seen.borrow().clone().expect("a VM has joined")
    }

    /// Sends a command and waits for its answer.
    pub async fn ask<C: Wire>(&self, command: &C) -> Message {
        let options = SendOptions::default().within(LIMIT);
        let asked = self.agent().ask(Message::of(command).unwrap(), options).await;
        asked.unwrap_or_else(|error| panic!("{}: {error}", C::CLASS))
    }

    /// The same where the class of the answer is certain.
    pub async fn answer<C: Wire, A: Wire>(&self, command: &C) -> A {
        let answer = self.ask(command).await;
        answer.read().unwrap_or_else(|e| panic!("{e}: {:?}", answer.body))
    }

    /// Asks about a download every while until what is said of it is enough.
    async fn polled(
        &self,
        command: &DownloadCommand,
        job: &str,
        enough: impl Fn(&DownloadAnswer) -> bool,
    ) -> DownloadAnswer {
        let start = std::time::Instant::now();
        loop {
            let answer = self.progress(command, job, "GET_STATUS").await;
            if enough(&answer) {
                return answer;
            }
            assert!(start.elapsed() < LIMIT, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until so many percent of a download have arrived.
    pub async fn arrived(&self, command: &DownloadCommand, job: &str, percent: u8) -> DownloadAnswer {
        self.polled(command, job, |answer| answer.download_pct >= percent).await
    }

    /// Polls a download until it has ended.
    pub async fn ended(&self, command: &DownloadCommand, job: &str) -> DownloadAnswer {
        let runs = [DownloadStatus::NotDownloaded, DownloadStatus::DownloadInProgress];
        self.polled(command, job, |answer| !runs.contains(&answer.download_status)).await
    }

    /// One request about a download.
    pub async fn progress(&self, command: &DownloadCommand, job: &str, request: &str) -> DownloadAnswer {
        let command = DownloadProgressCommand {
            job_id: Some(job.to_owned()),
            request: Some(request.to_owned()),
            download: command.clone(),
        };
        self.answer(&command).await
    }

    /// Begins a download; the number of its job.
    pub async fn begun(&self, command: &DownloadCommand) -> String {
        let answer: DownloadAnswer = self.answer(command).await;
        answer.job_id.unwrap_or_else(|| panic!("no job: {:?}", answer.error_string))
    }

    /// Downloads something to its end.
    pub async fn download(&self, command: &DownloadCommand) -> DownloadAnswer {
        let first: DownloadAnswer = self.answer(command).await;
        match first.job_id.clone() {
            Some(job)
                if first.download_status == DownloadStatus::DownloadInProgress
                    || first.error_string.as_deref() == Some(" ") =>
            {
                self.ended(command, &job).await
            }
            _ => first,
        }
    }
}
