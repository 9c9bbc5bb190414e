//! The `nft` program: one run a change, one run a question.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use common::paths::Paths;
use rustix::{
    fs::{FlockOperation, MemfdFlags, flock, memfd_create},
    io::Errno,
};
use serde::Deserialize;
use tokio::{
    io::AsyncReadExt as _,
    process::Command,
    time::{sleep, timeout},
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

/// How often is looked whether another core's change has ended.
const LOOK: Duration = Duration::from_millis(10);

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

/// The way to change the filter: one change at a time.
///
/// A change is handed to the program in a file that is locked as long as the core or the program has it open: a core
/// that starts waits for a change that the one before it, which was killed, has left on its way.
#[derive(Debug)]
pub struct Changes(File);

impl Changes {
    /// Opens it, once no other core's change is on its way.
    pub async fn open(paths: &Paths) -> Result<Self, NftError> {
        fs::create_dir_all(paths.run())?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(paths.run().join("filter"))?;
        let locked = async {
            while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                if error != Errno::WOULDBLOCK {
                    return Err(error);
                }
                sleep(LOOK).await;
            }
            Ok(())
        };
        timeout(LIMIT, locked).await.map_err(|_| NftError::Late)?.map_err(io::Error::from)?;
        Ok(Self(file))
    }

    /// Applies one transaction; an empty one costs nothing.
    pub async fn apply(&self, changes: &[Change]) -> Result<(), NftError> {
        if changes.is_empty() {
            return Ok(());
        }
        let input = serde_json::to_vec(&BTreeMap::from([("nftables", changes)]))?;
        self.0.set_len(0)?;
        self.0.write_all_at(&input, 0)?;
        let outcome = nft(&["-j", "-f", "-"], self.0.try_clone()?.into()).await;
        self.0.set_len(0)?;
        outcome.map(drop)
    }
}

/// Whether the kernel can follow a protocol; nothing is changed.
pub async fn knows(helper: Helper) -> Result<(), NftError> {
    let question = serde_json::to_vec(&BTreeMap::from([("nftables", probe(helper))]))?;
    let input = File::from(memfd_create("question", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    input.write_all_at(&question, 0)?;
    nft(&["-c", "-j", "-f", "-"], input.into()).await.map(drop)
}

/// Asks for the seal and the counters of our table.
pub async fn present() -> Result<Present, NftError> {
    let mut present = Present { seals: Vec::new(), counters: counters().await? };
    let answer = nft(&["-j", "list", "chains", "inet"], Stdio::null()).await?;
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
    let answer = match nft(words, Stdio::null()).await {
        // No such table: nothing was counted.
        Err(NftError::Refused(_)) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let counters = parse(&answer)?.into_iter().filter_map(|object| object.counter);
    Ok(counters.map(|c| (c.name, (c.packets, c.bytes))).collect())
}

/// The table as text, for people.
pub async fn listing() -> Result<String, NftError> {
    let answer = nft(&["list", "table", "inet", TABLE], Stdio::null()).await?;
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

async fn nft(words: &[&str], input: Stdio) -> Result<Vec<u8>, NftError> {
    timeout(LIMIT, run(words, input)).await.map_err(|_| NftError::Late)?
}

async fn run(words: &[&str], input: Stdio) -> Result<Vec<u8>, NftError> {
    // With its whole path it starts without a copy of this process, which would take as long as the change itself.
    let mut places = PROGRAMS.split(':').map(|folder| Path::new(folder).join("nft"));
    let program = places.find(|place| place.exists()).unwrap_or_else(|| "nft".into());
    let mut child = Command::new(program)
        .args(words)
        .env("PATH", PROGRAMS)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
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
    let (answer, complaint) = tokio::join!(read(stdout), complain);
    let (answer, complaint) = (answer?, complaint?);
    if child.wait().await?.success() {
        return Ok(answer);
    }
    let reason = String::from_utf8_lossy(&complaint);
    Err(NftError::Refused(reason.trim().chars().take(600).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_core_waits_for_the_change_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let first = Changes::open(&paths).await.unwrap();
        // What the program has as its input.
        let on_its_way = first.0.try_clone().unwrap();
        drop(first);
        let mut second = std::pin::pin!(Changes::open(&paths));
        assert!(timeout(3 * LOOK, &mut second).await.is_err());
        drop(on_its_way);
        second.await.unwrap();
    }
}
