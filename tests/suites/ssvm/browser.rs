//! Requests from outside: `curl` as the browser, and tickets as the management server makes them.

use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::command::storage::{UploadStatus, UploadStatusAnswer, UploadStatusCommand};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::lab::Process;

use tests::lab::ssvm::{LIMIT, Lab};

pub use tests::lab::ssvm::VM;
/// The key that the set-up command delivers.
pub const KEY: &str = "psk-of-the-suite";

/// What came back.
pub struct Page {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Page {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn curl(lab: &Lab, words: &[&str], url: &str) -> Command {
    let mut command = lab.namespace.command("curl");
    command.args(["-sS", "-k", "--max-time", "100"]).args(words).arg(url);
    command
}

/// One request.
pub fn get(lab: &Lab, words: &[&str], url: &str) -> Page {
    let folder = tempfile::tempdir().unwrap();
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let (head_word, body_word) = (head.to_str().unwrap(), body.to_str().unwrap());
    let words = [&["-D", head_word, "-o", body_word, "-w", "%{http_code}"], words].concat();
    let out = curl(lab, &words, url).output().unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    Page {
        status: String::from_utf8_lossy(&out.stdout).trim().parse().unwrap_or(0),
        head: String::from_utf8_lossy(&read(&head)).to_lowercase(),
        body: read(&body),
    }
}

/// An upload of a template to `template/tmpl/2/<id>`, with a ticket that a test may spoil.
pub struct Upload {
    pub uuid: String,
    pub scheme: &'static str,
    pub metadata: Value,
    pub signature: Option<String>,
    pub expires: String,
    pub key: &'static str,
}

impl Upload {
    pub fn new(id: i64, format: &str) -> Self {
        let uuid = format!("11111111-2222-3333-4444-{id:012}");
        let metadata = json!({
            "entityId": id, "entityUUID": uuid, "absolutePath": format!("template/tmpl/2/{id}"),
            "type": "TEMPLATE", "name": format!("{id}-2-up"), "requiresHvm": true, "imageFormat": format,
            "dataTo": "nfs://10.1.1.7/a", "dataToRole": "Image", "remoteEndPoint": VM, "maxUploadSize": "1",
            "description": "uploaded\nfilename=../x", "defaultMaxSecondaryStorageInGB": -1, "accountId": 2,
        });
        let expires = "2037-01-01T00:00:00.000Z".to_owned();
        Self { uuid, scheme: "https", metadata, signature: None, expires, key: KEY }
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.metadata[name] = value.into();
        self
    }

    pub fn url(&self) -> String {
        format!("{}://{VM}/upload/{}", self.scheme, self.uuid)
    }

    /// The headers of the ticket.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let key = UnboundKey::new(&AES_256_GCM, &Sha256::digest(self.key)).unwrap();
        let nonce = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().to_be_bytes();
        let nonce: [u8; 12] = nonce[4..].try_into().unwrap();
        let mut sealed = self.metadata.to_string().into_bytes();
        let unique = Nonce::assume_unique_for_key(nonce);
        LessSafeKey::new(key).seal_in_place_append_tag(unique, Aad::empty(), &mut sealed).unwrap();
        let metadata = STANDARD.encode([&nonce[..], &sealed].concat());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.key.as_bytes());
        let signed = hmac::sign(&key, format!("{metadata}{}{}", self.url(), self.expires).as_bytes());
        let signature = self.signature.clone().unwrap_or_else(|| STANDARD.encode(signed));
        vec![("x-signature", signature), ("x-metadata", metadata), ("x-expires", self.expires.clone())]
    }

    fn words(&self, file: &Path) -> Vec<String> {
        let mut words =
            vec!["-F".into(), "note=x".into(), "-F".into(), format!("files[]=@{}", file.display())];
        for (name, value) in self.headers() {
            words.extend(["-H".into(), format!("{name}: {value}")]);
        }
        words
    }

    /// Sends a file: status and text.
    pub fn send(&self, lab: &Lab, file: &Path) -> (u16, String) {
        let words = self.words(file);
        let page = get(lab, &words.iter().map(String::as_str).collect::<Vec<_>>(), &self.url());
        (page.status, page.text())
    }

    /// Begins to send a file, slowly: this many bytes a second.
    pub fn begin(&self, lab: &Lab, file: &Path, rate: &str) -> Process {
        let mut words = self.words(file);
        words.extend(["--limit-rate".into(), rate.into(), "-w".into(), "\n%{http_code}".into()]);
        Process::start(curl(lab, &words.iter().map(String::as_str).collect::<Vec<_>>(), &self.url()))
    }

    pub async fn status(&self, lab: &Lab) -> UploadStatusAnswer {
        let command = UploadStatusCommand {
            entity_uuid: Some(self.uuid.clone()),
            entity_type: Some("Template".into()),
            ..Default::default()
        };
        lab.answer(&command).await
    }

    /// Waits until the upload is in this state.
    pub async fn until(&self, lab: &Lab, ready: impl Fn(&UploadStatusAnswer) -> bool) -> UploadStatusAnswer {
        let start = std::time::Instant::now();
        loop {
            let answer = self.status(lab).await;
            if ready(&answer) {
                return answer;
            }
            assert!(start.elapsed() < LIMIT, "{answer:?}\n{}", lab.serve.output());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until some of it has arrived.
    pub async fn under_way(&self, lab: &Lab) {
        self.until(lab, |a| a.status == UploadStatus::InProgress && a.download_percent > 0).await;
    }
}
