//! Calls into a mounted folder, which hang where its server is gone. They run on threads of their own, each folder has
//! only so many of them, and nobody waits longer than a while: so a dead store stops what is its own, and no other.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{StoreError, StoreResult};

/// Calls into one folder at a time. The threads for such calls are 512, those of hanging calls included.
const CALLS: usize = 48;

static GATES: LazyLock<Mutex<HashMap<String, Gate>>> = LazyLock::new(Mutex::default);

/// The way into one folder; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    /// Longest wait for a call.
    pub(super) const LIMIT: Duration = Duration::from_secs(50);
    /// Longest wait for what tidies up after a failure, which may have been such a wait: two of them and it make less
    /// than a minute.
    pub(crate) const TIDY: Duration = Duration::from_secs(4);

    /// The one of a folder.
    pub(super) fn of(folder: &str) -> Self {
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| Arc::strong_count(&gate.0) > 1);
        gates.entry(folder.to_owned()).or_insert_with(|| Self(Arc::new(Semaphore::new(CALLS)))).clone()
    }

    /// Runs a call. One that hangs keeps its place until it ends, also after its caller has gone.
    pub(super) async fn pass<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        self.within(Self::LIMIT, call).await
    }

    pub(super) async fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let gate = self.clone();
        let passed = async move {
            let place = Arc::clone(&gate.0).acquire_owned().await;
            let called = spawn_blocking(move || {
                let result = call();
                drop((place, gate));
                result
            });
            called.await.unwrap_or_else(|join| {
                Err(StoreError::Other { what: "file system".into(), reason: join.to_string() })
            })
        };
        timeout(limit, passed).await.unwrap_or_else(|_| Err(StoreError::Silent(limit.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn a_folder_that_hangs_keeps_no_other_waiting() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let (dead, well) = (Gate::of("dead"), Gate::of("well"));
        let hanging = (0..CALLS + 5).map(|_| {
            let wait = Arc::clone(&wait);
            // Those behind the first wait for the lock, as calls do for a file system.
            dead.within(Duration::from_secs(1), move || {
                let _ = wait.lock().map(|wait| wait.recv());
                Ok(())
            })
        });
        let failed = join_all(hanging).await;
        assert!(failed.iter().all(|result| matches!(result, Err(StoreError::Silent(1)))));
        assert_eq!(dead.0.available_permits(), 0);
        assert!(well.pass(|| Ok(7)).await.is_ok_and(|n| n == 7));
        // The server is back.
        drop(end);
        assert!(dead.pass(|| Ok(8)).await.is_ok_and(|n| n == 8));
    }
}
