//! The core's end of the line to the serve process: gives tasks, hears how far they are, and takes
//! the results.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::order::{self, Failure, FailureKind, Order, Outcome, Progress, Report, Task};

/// Longest wait for a serve process that is not there.
const CONNECT: Duration = Duration::from_secs(20);
/// Time for a task to end after it was aborted.
const ABORT: Duration = Duration::from_secs(60);

/// What is known of a task that was given.
struct Pending {
    progress: Option<watch::Sender<Progress>>,
    done: oneshot::Sender<Result<Outcome, Failure>>,
}

#[derive(Default)]
struct Inner {
    orders: Option<mpsc::Sender<Order>>,
    /// Counts connections, so that the end of an old one does not disturb its successor.
    connection: u64,
    next: u64,
    pending: HashMap<u64, Pending>,
}

/// Gives tasks to the serve process; clones share the line.
#[derive(Clone)]
pub(crate) struct Workshop {
    inner: Arc<Mutex<Inner>>,
    connected: watch::Sender<bool>,
}

impl Workshop {
    /// Nobody is there yet.
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default(), connected: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the serve process is there.
    pub(crate) fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Takes a serve process in, in place of the one before.
    pub(crate) fn attach(&self, stream: UnixStream) {
        let (orders, mut outgoing) = mpsc::channel::<Order>(256);
        let (mut reader, mut writer) = stream.into_split();
        let number = {
            let mut inner = self.lock();
            inner.connection += 1;
            inner.orders = Some(orders);
            lose(&mut inner);
            inner.connection
        };
        self.connected.send_replace(true);
        let this = self.clone();
        tokio::spawn(async move {
            let read = async {
                while let Some(report) = order::receive::<Report>(&mut reader).await? {
                    this.heard(report);
                }
                Ok::<(), std::io::Error>(())
            };
            let write = async {
                while let Some(order) = outgoing.recv().await {
                    order::send(&mut writer, &order).await?;
                }
                Ok(())
            };
            let end = tokio::select! { end = read => end, end = write => end };
            if let Err(error) = end {
                tracing::warn!(%error, "the line to serve broke");
            }
            let mut inner = this.lock();
            if inner.connection == number {
                inner.orders = None;
                lose(&mut inner);
                this.connected.send_replace(false);
            }
        });
    }

    fn heard(&self, report: Report) {
        let mut inner = self.lock();
        match report {
            Report::Progress { id, progress } => {
                if let Some(sender) = inner.pending.get(&id).and_then(|p| p.progress.as_ref()) {
                    sender.send_replace(progress);
                }
            }
            Report::Done { id, result } => {
                if let Some(pending) = inner.pending.remove(&id) {
                    // Whoever asked may have given up.
                    let _ = pending.done.send(result);
                }
            }
        }
    }

    /// Gives a short task and waits for its end, at most `limit`.
    pub(crate) async fn call(&self, task: Task, limit: Duration) -> Result<Outcome, Failure> {
        let abort = CancellationToken::new();
        let work = self.work(task, None, &abort);
        tokio::pin!(work);
        match timeout(limit, &mut work).await {
            Ok(result) => result,
            Err(_) => {
                abort.cancel();
                let text = format!("the store did not answer within {} s", limit.as_secs());
                Err(Failure::end(text))
            }
        }
    }

    /// Gives a task and waits for its end. Aborted, it still ends in good order.
    pub(crate) async fn work(
        &self,
        task: Task,
        progress: Option<watch::Sender<Progress>>,
        abort: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let lost = || Failure::new(FailureKind::Lost, "the serve process is not there");
        let mut connected = self.connected.subscribe();
        timeout(CONNECT, connected.wait_for(|there| *there))
            .await
            .map_err(|_| lost())?
            .map_err(|_| lost())?;
        let (done, mut result) = oneshot::channel();
        let (id, orders) = {
            let mut inner = self.lock();
            let Some(orders) = inner.orders.clone() else { return Err(lost()) };
            inner.next += 1;
            let id = inner.next;
            inner.pending.insert(id, Pending { progress, done });
            (id, orders)
        };
        let _forget = Forget { workshop: self, id };
        orders.send(Order::Start { id, task }).await.map_err(|_| lost())?;
        tokio::select! {
            result = &mut result => return result.unwrap_or_else(|_| Err(lost())),
            () = abort.cancelled() => {}
        }
        orders.send(Order::Abort { id }).await.map_err(|_| lost())?;
        match timeout(ABORT, result).await {
            Ok(result) => result.unwrap_or_else(|_| Err(lost())),
            Err(_) => Err(Failure::new(FailureKind::Aborted, "aborted; the store did not answer")),
        }
    }
}

/// Ends all tasks of a connection that is gone.
fn lose(inner: &mut Inner) {
    for (_, pending) in inner.pending.drain() {
        let _ = pending.done.send(Err(Failure::new(FailureKind::Lost, "the serve process has ended")));
    }
}

/// Stops a task whose caller has gone away.
struct Forget<'a> {
    workshop: &'a Workshop,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut inner = self.workshop.lock();
        if inner.pending.remove(&self.id).is_some()
            && let Some(orders) = &inner.orders
        {
            // A full queue belongs to a serve process that will be replaced.
            let _ = orders.try_send(Order::Abort { id: self.id });
        }
    }
}
