//! The life of an agent.
use super::{AgentConfig, Order, RequestError, Resource, Status};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
pub(super) async fn run<R: Resource>(
    _config: AgentConfig,
    _resource: Arc<R>,
    mut inbox: mpsc::Receiver<Order>,
    _status: watch::Sender<Status>,
    _stopped: oneshot::Receiver<()>,
) {
    while let Some(order) = inbox.recv().await {
        if let Order::Request(_, Some(answer), _) = order {
            let _ = answer.send(Err(RequestError::NotConnected));
        }
    }
}
