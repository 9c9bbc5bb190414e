//! The `nft` program: one run a change, one run a question.

use std::{collections::BTreeMap, io, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use super::{
    render::{Command as Change, TABLE, probe},
    table::SEAL,
};

use crate::helper::Helper;

/// Where programs of the system are, whatever the supervisor says.
pub(crate) const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest time for one run.
const LIMIT: Duration = Duration::from_secs(30);

/// Longest answer that is read, in bytes.
const ANSWER: u64 = 64 * 1024 * 1024;

/// Why the packet filter could not be changed or read. A change is whole or has not happened.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be started or talked to.
    #[error("nft: {0}")]
    Io(#[from] io::Error),
    /// It did not end in time.
    #[error("nft did not end within {} s", LIMIT.as_secs())]
    Late,
    /// It refused; the table is as it was.
    #[error("nft refused the change: {0}")]
    Refused(String),
    /// Objects could not be written or read as JSON.
    #[error("nft: {0}")]
    Json(#[from] serde_json::Error),
}

/// What the kernel has of our table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Names of the chains that seal the table, the one that counts last.
    pub seals: Vec<String>,
    /// Counters: packets and bytes.
    pub counters: BTreeMap<String, (u64, u64)>,
}

/// Applies one transaction; an empty one costs nothing.
pub async fn apply(changes: &[Change]) -> Result<(), NftError> {
    if changes.is_empty() {
        return Ok(());
    }
    let input = serde_json::to_vec(&BTreeMap::from([("nftables", changes)]))?;
    nft(&["-j", "-f", "-"], input).await.map(drop)
}

/// Whether the kernel can follow a protocol; nothing is changed.
pub async fn knows(helper: Helper) -> Result<(), NftError> {
    let input = serde_json::to_vec(&BTreeMap::from([("nftables", probe(helper))]))?;
    nft(&["-c", "-j", "-f", "-"], input).await.map(drop)
}

/// Asks for the seal and the counters of our table.
pub async fn present() -> Result<Present, NftError> {
    let mut present = Present { seals: Vec::new(), counters: counters().await? };
    let answer = nft(&["-j", "list", "chains", "inet"], Vec::new()).await?;
    let chains = parse(&answer)?.into_iter().filter_map(|object| object.chain);
    let seals = chains.filter(|chain| chain.table == TABLE && chain.name.starts_with(SEAL));
    let mut seals: Vec<ListedChain> = seals.collect();
    // Handles grow: the youngest seal is the last one.
    seals.sort_by_key(|chain| chain.handle);
    present.seals = seals.into_iter().map(|chain| chain.name).collect();
    Ok(present)
}

/// Asks for the counters of our table.
pub async fn counters() -> Result<BTreeMap<String, (u64, u64)>, NftError> {
    counters_by(&["-j", "list", "counters", "table", "inet", TABLE]).await
}

/// Sets some counters to 0 and says what they were.
pub async fn reset(names: &[String]) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
    let mut figures = BTreeMap::new();
    for name in names {
        figures.extend(counters_by(&["-j", "reset", "counter", "inet", TABLE, name]).await?);
    }
    Ok(figures)
}

/// Sets all counters to 0 and says what they were.
pub async fn reset_all() -> Result<BTreeMap<String, (u64, u64)>, NftError> {
    counters_by(&["-j", "reset", "counters", "table", "inet", TABLE]).await
}

async fn counters_by(words: &[&str]) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
    let answer = match nft(words, Vec::new()).await {
        // No such table: nothing was counted.
        Err(NftError::Refused(_)) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let counters = parse(&answer)?.into_iter().filter_map(|object| object.counter);
    Ok(counters.map(|c| (c.name, (c.packets, c.bytes))).collect())
}

/// The table as text, for people.
pub async fn listing() -> Result<String, NftError> {
    let answer = nft(&["list", "table", "inet", TABLE], Vec::new()).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What we read of an answer.
#[derive(Debug, Deserialize)]
struct Answer {
    nftables: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    chain: Option<ListedChain>,
    counter: Option<ListedCounter>,
}

#[derive(Debug, Deserialize)]
struct ListedChain {
    table: String,
    name: String,
    handle: u64,
}

#[derive(Debug, Deserialize)]
struct ListedCounter {
    name: String,
    packets: u64,
    bytes: u64,
}

fn parse(answer: &[u8]) -> Result<Vec<Listed>, NftError> {
    Ok(serde_json::from_slice::<Answer>(answer)?.nftables)
}

async fn nft(words: &[&str], input: Vec<u8>) -> Result<Vec<u8>, NftError> {
    timeout(LIMIT, run(words, input)).await.map_err(|_| NftError::Late)?
}

async fn run(words: &[&str], input: Vec<u8>) -> Result<Vec<u8>, NftError> {
    let mut child = Command::new("nft")
        .args(words)
        .env("PATH", PROGRAMS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that has ended says why on its other ends.
            let _ = stdin.write_all(&input).await;
        }
    };
    let read = async |stream: Option<tokio::process::ChildStdout>| {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            stream.take(ANSWER).read_to_end(&mut bytes).await?;
        }
        io::Result::Ok(bytes)
    };
    let complain = async {
        let mut bytes = Vec::new();
        if let Some(stream) = stderr {
            stream.take(64 * 1024).read_to_end(&mut bytes).await?;
        }
        io::Result::Ok(bytes)
    };
    let ((), answer, complaint) = tokio::join!(write, read(stdout), complain);
    let (answer, complaint) = (answer?, complaint?);
    if child.wait().await?.success() {
        return Ok(answer);
    }
    let reason = String::from_utf8_lossy(&complaint);
    Err(NftError::Refused(reason.trim().chars().take(600).collect()))
}
