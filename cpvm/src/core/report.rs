//! The load report: at once when a console opens, and every five seconds.

use std::time::{Duration, Instant};

use common::{
    channel::{
        agent::RequestError,
        message::{Base, Message},
    },
    command::console::{ConsoleProxyLoadReportCommand, LoadInfo},
};
use tokio::time::{MissedTickBehavior, interval};

use super::{Proxy, ledger::Outcome};

const EVERY: Duration = Duration::from_secs(5);
/// For management's answer; less than the time to the next report.
const ANSWER_LIMIT: Duration = Duration::from_millis(4500);

/// Reports for ever.
pub(super) async fn run(proxy: &Proxy) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(agent) = proxy.agent.get() else { continue };
        // Before it has taken the proxy in, management throws away what it is told.
        let connection = Some(agent.status().borrow().clone()).filter(|status| status.ready);
        let Some(connection) = connection.map(|status| status.connections) else { continue };
        let info = proxy.state().ledger.report(Instant::now(), connection);
        let outcome = match agent.request(command(proxy, &info), ANSWER_LIMIT).await {
            Ok(_) => Outcome::Answered,
            Err(RequestError::Busy) => Outcome::NotSent,
            Err(error) => {
                tracing::warn!(%error, "a load report was not answered");
                Outcome::Unanswered
            }
        };
        proxy.state().ledger.reported(outcome);
    }
}

/// Reports that a console has opened; nobody waits for the answer.
pub(super) async fn change(proxy: &Proxy) {
    let info = proxy.state().ledger.load();
    if let Some(agent) = proxy.agent.get()
        && let Err(error) = agent.post(command(proxy, &info)).await
    {
        tracing::debug!(%error, "an opened console was not reported at once");
    }
}

fn command(proxy: &Proxy, info: &LoadInfo) -> Message {
    let load_info = info.stored_text();
    Message::wrap(&ConsoleProxyLoadReportCommand { proxy: proxy.number(), load_info, base: Base::default() })
}
