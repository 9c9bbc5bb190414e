use std::{
    net::UdpSocket,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::paths::Paths;

const LIMIT: Duration = Duration::from_secs(10);

/// A fixed UDP port cannot be opened twice, so that the tests see who opened it.
fn offer(name: &str, opened: &Arc<AtomicUsize>) -> Offer {
    let opened = Arc::clone(opened);
    Offer::new(name, move || {
        opened.fetch_add(1, Ordering::SeqCst);
        UdpSocket::bind("127.0.0.1:0").map(OwnedFd::from)
    })
}

async fn next(updates: &mut Updates) -> Update {
    tokio::time::timeout(LIMIT, updates.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn serve_is_brought_up_to_date_and_then_kept_so() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let opened = Arc::default();
    let (core, _events) = Core::listen(&paths, None).unwrap();
    core.publish("leases", &vec![1]).unwrap();
    core.publish("leases", &vec![1, 2]).unwrap();
    let version = core.offer([offer("dhcp", &opened)]);
    let (_serve, mut updates) = Serve::connect(&paths);
    assert!(
        matches!(next(&mut updates).await, Update::Snapshot { kind, bytes } if kind == "leases" && *bytes == *b"[1,2]")
    );
    let Update::Socket { name, fd } = next(&mut updates).await else { panic!("a socket") };
    assert_eq!(name, "dhcp");
    assert!(UdpSocket::from(fd).local_addr().unwrap().port() > 0);
    assert!(!core.applied(version, Duration::ZERO).await, "not before serve asks for the next");
    let waiting = tokio::spawn(async move { (next(&mut updates).await, updates) });
    assert!(core.applied(version, LIMIT).await);
    let same = core.publish("leases", &vec![1, 2]).unwrap();
    assert!(same < version, "the same bytes change nothing");
    core.offer([]);
    let (update, _updates) = waiting.await.unwrap();
    assert!(matches!(update, Update::Withdrawn { name } if name == "dhcp"));
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_new_serve_gets_everything_again_and_no_socket_is_opened_twice() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let opened = Arc::default();
    let (core, _events) = Core::listen(&paths, None).unwrap();
    core.publish("names", &"x").unwrap();
    core.offer([offer("dns", &opened)]);
    for _ in 0..2 {
        let (_serve, mut updates) = Serve::connect(&paths);
        assert!(matches!(next(&mut updates).await, Update::Snapshot { kind, .. } if kind == "names"));
        assert!(matches!(next(&mut updates).await, Update::Socket { name, .. } if name == "dns"));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    assert!(core.failures().is_empty());
}

#[tokio::test]
async fn what_is_taken_back_meanwhile_is_neither_opened_nor_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let opened: Arc<AtomicUsize> = Arc::default();
    let (core, _events) = Core::listen(&paths, None).unwrap();
    let taking_back = {
        let core = core.clone();
        Offer::new("dhcp", move || {
            core.offer([]);
            Err(std::io::ErrorKind::AddrInUse.into())
        })
    };
    core.offer([taking_back, offer("dns", &opened)]);
    let version = core.publish("names", &1).unwrap();
    let (_serve, mut updates) = Serve::connect(&paths);
    assert!(matches!(next(&mut updates).await, Update::Snapshot { .. }));
    tokio::select! {
        update = next(&mut updates) => panic!("{update:?}"),
        applied = core.applied(version + 1, LIMIT) => assert!(applied),
    }
    assert!(core.failures().is_empty());
    assert_eq!(opened.load(Ordering::SeqCst), 0);
}

#[test]
fn a_new_core_takes_over_what_serve_holds() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let opened: Arc<AtomicUsize> = Arc::default();
    let serve_side =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_serve, mut updates) = serve_side.block_on(async { Serve::connect(&paths) });

    let first = runtime();
    let core = first.block_on(async {
        let (core, events) = Core::listen(&paths, None).unwrap();
        core.offer([offer("dns", &opened), offer("dhcp", &opened)]);
        let socket = tokio::time::timeout(LIMIT, updates.next()).await;
        assert!(matches!(socket, Ok(Some(Update::Socket { name, .. })) if name == "dhcp"));
        assert!(matches!(next(&mut updates).await, Update::Socket { name, .. } if name == "dns"));
        (core, events)
    });
    drop(first);
    drop(core);

    runtime().block_on(async {
        let (core, _events) = Core::listen(&paths, None).unwrap();
        core.publish("names", &1).unwrap();
        assert!(matches!(next(&mut updates).await, Update::Snapshot { .. }));
        let version = core.offer([offer("dns", &opened)]);
        assert!(matches!(next(&mut updates).await, Update::Withdrawn { name } if name == "dhcp"));
        let more = tokio::time::timeout(Duration::from_millis(50), updates.next());
        let (applied, _) = tokio::join!(core.applied(version, LIMIT), more);
        assert!(applied);
    });
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[test]
fn what_a_new_core_does_not_have_is_withdrawn_once_it_has_said_all() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let serve_side =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_serve, mut updates) = serve_side.block_on(async { Serve::connect(&paths) });
    let told = async |updates: &mut Updates| match next(updates).await {
        Update::Snapshot { kind, bytes } => (kind, String::from_utf8(bytes.to_vec()).unwrap()),
        other => panic!("{other:?}"),
    };
    let pair = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());

    let first = runtime();
    first.block_on(async {
        let (core, _events) = Core::listen(&paths, None).unwrap();
        for kind in ["host/1", "host/2", "host/3"] {
            core.publish(kind, &1).unwrap();
        }
        for kind in ["host/1", "host/2", "host/3"] {
            assert_eq!(told(&mut updates).await, pair(kind, "1"));
        }
        core.withdraw("host/3");
        assert_eq!(told(&mut updates).await, pair("host/3", "null"));
    });
    drop(first);

    runtime().block_on(async {
        let (core, _events) = Core::listen(&paths, None).unwrap();
        core.publish("host/2", &2).unwrap();
        assert_eq!(
            told(&mut updates).await,
            pair("host/2", "2"),
            "until then serve goes on with what it has"
        );
        core.complete();
        assert_eq!(told(&mut updates).await, pair("host/1", "null"));
        core.withdraw("host/2");
        let version = core.publish("host/4", &4).unwrap();
        assert_eq!(told(&mut updates).await, pair("host/2", "null"));
        assert_eq!(told(&mut updates).await, pair("host/4", "4"), "in the order in which they were said");
        let more = tokio::time::timeout(Duration::from_millis(50), updates.next());
        let (applied, _) = tokio::join!(core.applied(version, LIMIT), more);
        assert!(applied);
        let (_serve, mut updates) = Serve::connect(&paths);
        assert_eq!(told(&mut updates).await, pair("host/4", "4"), "nothing is kept of what has gone");
    });
}

#[tokio::test]
async fn events_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let (serve, _updates) = Serve::connect(&paths);
    serve.tell("early", &1).unwrap();
    let (_core, mut events) = Core::listen(&paths, None).unwrap();
    let core = tokio::spawn(async move {
        let early = events.recv().await.unwrap();
        assert_eq!((early.kind.as_str(), early.is_question()), ("early", false));
        let taken = events.recv().await.unwrap();
        assert_eq!(taken.parse::<String>().unwrap(), "10.1.1.2");
        taken.answer(&"kept");
        events.recv().await.unwrap().refuse("no such guest");
        drop(events.recv().await.unwrap());
        events
    });
    let answer: String = serve.ask("taken", &"10.1.1.2", LIMIT).await.unwrap();
    assert_eq!(answer, "kept");
    let refused = serve.ask::<_, ()>("taken", &"10.1.1.3", LIMIT).await.unwrap_err();
    assert_eq!(refused.to_string(), "the core refused: no such guest");
    assert!(matches!(serve.ask::<_, ()>("x", &1, LIMIT).await, Err(AskError::Refused(_))));
    let events = core.await.unwrap();
    assert!(matches!(serve.ask::<_, ()>("x", &1, Duration::ZERO).await, Err(AskError::Late)));
    drop(events);
}

#[tokio::test]
async fn an_answer_may_carry_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let (core, mut events) = Core::listen(&paths, None).unwrap();
    let (serve, _updates) = Serve::connect(&paths);
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let answering = async {
        events.recv().await.unwrap().answer_with(&7, Some(far.into()));
        events.recv().await.unwrap().answer(&8);
    };
    let asking = async {
        let (answer, socket) = serve.ask_with_socket::<_, u8>("open", &(), LIMIT).await.unwrap();
        assert_eq!(answer, 7);
        drop(socket.unwrap());
        let (answer, socket) = serve.ask_with_socket::<_, u8>("open", &(), LIMIT).await.unwrap();
        assert!(answer == 8 && socket.is_none());
    };
    tokio::join!(answering, asking);
    // Nobody but serve held the other end: it has closed.
    near.set_read_timeout(Some(LIMIT)).unwrap();
    let read = tokio::task::spawn_blocking(move || std::io::Read::read(&mut &near, &mut [0]));
    assert_eq!(read.await.unwrap().unwrap(), 0);
    drop(core);
}

#[tokio::test]
async fn events_without_a_core_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (serve, _updates) = Serve::connect(&Paths::below(folder.path()));
    let told = (0..5000).take_while(|n| serve.tell("lease", n).is_ok()).count();
    assert!(told < 5000);
    assert!(matches!(serve.tell("lease", &1), Err(AskError::Full)));
}

#[tokio::test]
async fn a_socket_that_cannot_be_opened_is_named_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let (core, _events) = Core::listen(&paths, None).unwrap();
    let (_serve, mut updates) = Serve::connect(&paths);
    let busy = Arc::new(std::sync::Mutex::new(true));
    let open = {
        let busy = Arc::clone(&busy);
        move || match *busy.lock().unwrap() {
            true => Err(std::io::ErrorKind::AddrInUse.into()),
            false => UdpSocket::bind("127.0.0.1:0").map(OwnedFd::from),
        }
    };
    let version = core.offer([Offer::new("dns", open.clone())]);
    let first = tokio::spawn(async move { next(&mut updates).await });
    assert!(core.applied(version, LIMIT).await);
    assert_eq!(core.failures()["dns"], "address in use");
    *busy.lock().unwrap() = false;
    core.offer([Offer::new("dns", open)]);
    assert!(matches!(first.await.unwrap(), Update::Socket { name, .. } if name == "dns"));
    assert!(core.failures().is_empty());
}
