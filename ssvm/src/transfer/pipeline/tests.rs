//! Bytes that pass, bytes that do not, and what is left behind then: nothing.

use std::{collections::VecDeque, fs, process::Command, sync::atomic::AtomicBool};

use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::*;
use crate::{
    layout::StorePath,
    store::{
        Expected, FolderStore, Found, Store,
        failing::{FailingStore, Fault},
    },
};

struct Chunked(VecDeque<Bytes>, Option<u64>);

impl Chunked {
    fn of(bytes: &[u8], size: usize) -> Box<dyn Source> {
        let chunks = bytes.chunks(size.max(1)).map(Bytes::copy_from_slice).collect();
        Box::new(Self(chunks, Some(bytes.len() as u64)))
    }
}

impl Source for Chunked {
    fn size(&self) -> Option<u64> {
        self.1
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        let next = self.0.pop_front();
        Box::pin(async move { Ok(next) })
    }
}

fn plan(format: Option<ImageFormat>) -> Plan {
    Plan { checksum: None, decompress: true, format, strict: true, limit: 64 << 20, resumed: None }
}

const EXPECTED: Expected = Expected { size: None, limit: 64 << 20, kept: 0, beside: false };

fn path() -> StorePath {
    StorePath::parse("template/tmpl/2/201/x.raw").unwrap()
}

/// Moves bytes into a folder; what came of it and the file's content where it is there.
async fn moved(source: Box<dyn Source>, plan: &Plan) -> (Result<Moved, TransferError>, Option<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path().to_str().unwrap(), "job").await.unwrap();
    let mut sink = store.create(&path(), EXPECTED).await.unwrap();
    let result = run(source, &mut *sink, plan, &Meter::default()).await;
    let files: Vec<_> = store.list(&StorePath::parse("template").unwrap()).await.unwrap();
    match &result {
        Ok(_) => assert_eq!(files.len(), 1),
        Err(_) => assert!(files.is_empty(), "{files:?}"),
    }
    (result, fs::read(folder.path().join("template/tmpl/2/201/x.raw")).ok())
}

fn squeezed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    fs::write(&file, bytes).unwrap();
    let out = Command::new(program).arg("-c").arg(&file).output().unwrap();
    assert!(out.status.success());
    out.stdout
}

fn noise(length: usize) -> Vec<u8> {
    let mut x = 88_172_645_463_325_252_u64;
    let mut step = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..length).map(|_| step()).collect()
}

#[tokio::test]
async fn plain_bytes_arrive_with_their_checksum() {
    let bytes = noise(3_000_001);
    let (result, file) = moved(Chunked::of(&bytes, 70_000), &plan(Some(ImageFormat::Raw))).await;
    let moved = result.unwrap();
    assert_eq!(file.unwrap(), bytes);
    assert_eq!(moved.sizes.physical_size, 3_000_001);
    let mut hasher = Algorithm::Sha512.hasher();
    hasher.update(&bytes);
    assert_eq!(moved.checksum, hasher.finish());
}

#[tokio::test]
async fn compressed_bytes_are_unpacked_and_hashed_as_served() {
    let bytes = noise(1_500_000);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        if Command::new(program).arg("--version").output().is_err() {
            continue;
        }
        let served = squeezed(program, &bytes);
        let mut hasher = Algorithm::Sha256.hasher();
        hasher.update(&served);
        let plan = Plan { checksum: Some(hasher.finish()), ..plan(Some(ImageFormat::Raw)) };
        let (result, file) = moved(Chunked::of(&served, 10_007), &plan).await;
        assert_eq!(result.unwrap().sizes.physical_size, 1_500_000, "{program}");
        assert_eq!(file.unwrap(), bytes, "{program}");
    }
}

#[tokio::test]
async fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path().to_str().unwrap(), "job").await.unwrap();
    let mut bytes = vec![0; 16 << 20];
    bytes[5 << 20] = 1;
    let mut sink = store.create(&path(), EXPECTED).await.unwrap();
    run(Chunked::of(&bytes, 1 << 20), &mut *sink, &plan(Some(ImageFormat::Raw)), &Meter::default())
        .await
        .unwrap();
    let file = folder.path().join("template/tmpl/2/201/x.raw");
    let meta = fs::metadata(&file).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    assert_eq!(meta.mode() & 0o777, 0o666);
    assert_eq!(fs::metadata(folder.path().join("template/tmpl/2")).unwrap().mode() & 0o777, 0o777);
    assert!(fs::read(&file).unwrap() == bytes);
}

#[tokio::test]
async fn what_is_wrong_leaves_nothing_behind() {
    let bytes = noise(2_000_000);
    let wrong =
        Plan { checksum: Some(Checksum::parse("{SHA-256}00").unwrap()), ..plan(Some(ImageFormat::Raw)) };
    let (result, file) = moved(Chunked::of(&bytes, 1 << 16), &wrong).await;
    let text = result.unwrap_err().to_string();
    assert!(text.contains("didn't match the given value, \"{SHA-256}00\""), "{text}");
    assert!(file.is_none());
    let (result, _) = moved(Chunked::of(&bytes, 1 << 16), &plan(Some(ImageFormat::Qcow2))).await;
    assert!(matches!(result, Err(TransferError::Refused(_))));
    let mut cut = squeezed("gzip", &bytes);
    cut.truncate(cut.len() / 2);
    let (result, _) = moved(Chunked::of(&cut, 1 << 16), &plan(Some(ImageFormat::Raw))).await;
    assert!(matches!(result, Err(TransferError::Compressed(_))));
}

#[tokio::test]
async fn a_bomb_stops_at_the_limit() {
    let bomb = squeezed("gzip", &vec![0; 80 << 20]);
    assert!(bomb.len() < 1 << 20);
    let (result, _) = moved(Chunked::of(&bomb, 1 << 16), &plan(Some(ImageFormat::Raw))).await;
    assert!(matches!(result, Err(TransferError::TooLarge)));
    let endless = Box::new(Chunked(vec![Bytes::from(vec![1; 1 << 20]); 100].into(), None));
    let (result, _) = moved(endless, &plan(Some(ImageFormat::Raw))).await;
    assert!(matches!(result, Err(TransferError::TooLarge)));
    let told = Box::new(Chunked(VecDeque::new(), Some(1 << 40)));
    let (result, _) = moved(told, &plan(Some(ImageFormat::Raw))).await;
    assert!(matches!(result, Err(TransferError::TooLarge)));
}

#[tokio::test]
async fn a_store_that_fails_is_told_to_drop_it() {
    for fault in [Fault::WriteAfter(1 << 20), Fault::Finish] {
        let folder = tempfile::tempdir().unwrap();
        let inner = Box::new(FolderStore::open(folder.path().to_str().unwrap(), "job").await.unwrap());
        let store = FailingStore { inner, fault, aborted: Arc::new(AtomicBool::new(false)) };
        let mut sink = store.create(&path(), EXPECTED).await.unwrap();
        let source = Chunked::of(&noise(5_000_000), 1 << 16);
        let result = run(source, &mut *sink, &plan(None), &Meter::default()).await;
        assert!(matches!(result, Err(TransferError::Sink(StoreError::Full(_)))), "{fault:?}");
        assert!(store.aborted.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(store.find(&path()).await.unwrap(), Found::Nothing);
        assert!(store.list(&StorePath::parse("template").unwrap()).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_to_its_end_does_not_arrive() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("x"), noise(3_000_000)).unwrap();
    let inner = Box::new(FolderStore::open(from.path().to_str().unwrap(), "job").await.unwrap());
    let aborted = Arc::new(AtomicBool::new(false));
    let source = FailingStore { inner, fault: Fault::ReadAfter(1 << 20), aborted };
    let store = FolderStore::open(to.path().to_str().unwrap(), "job").await.unwrap();
    let mut sink = store.create(&path(), EXPECTED).await.unwrap();
    let file = source.open(&StorePath::parse("x").unwrap()).await.unwrap();
    let result = run(file, &mut *sink, &plan(None), &Meter::default()).await;
    assert!(matches!(result, Err(TransferError::Source(SourceError::Store(_)))));
    assert!(store.list(&StorePath::parse("template").unwrap()).await.unwrap().is_empty());
}

#[tokio::test]
async fn links_in_a_store_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("template")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("link")).unwrap();
    let store = FolderStore::open(folder.path().to_str().unwrap(), "job").await.unwrap();
    assert!(store.create(&path(), EXPECTED).await.is_err());
    assert!(store.open(&StorePath::parse("link").unwrap()).await.is_err());
    assert!(store.open(&StorePath::parse("template/secret").unwrap()).await.is_err());
    assert!(store.list(&StorePath::parse("template").unwrap()).await.is_err());
    let gone = store.remove_folder(&StorePath::parse("template/tmpl/1").unwrap(), &[]).await;
    assert!(gone.is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_cut_gives_the_same_bytes(length in 0_usize..200_000, cut in 1_usize..50_000) {
        let bytes = noise(length);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (result, file) = moved(Chunked::of(&bytes, cut), &plan(None)).await;
            result.unwrap();
            assert_eq!(file.unwrap(), bytes);
        });
    }
}
