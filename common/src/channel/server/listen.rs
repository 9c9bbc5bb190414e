//! The door of the management end.
use super::registry::Registry;
use super::{Manager, ServerConfig};
use crate::channel::tls::ServerTls;
use std::sync::Arc;
use tokio::net::TcpListener;
pub(super) struct Door<M> {
    pub(super) config: Arc<ServerConfig>,
    pub(super) tls: ServerTls,
    pub(super) manager: Arc<M>,
    pub(super) registry: Arc<Registry>,
}
pub(super) async fn listen<M: Manager>(listener: TcpListener, _door: Arc<Door<M>>) {
    loop {
        let _ = listener.accept().await;
    }
}
