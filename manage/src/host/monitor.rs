//! QEMU's monitor (QMP): where a console listens, and the end of a VM.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};

use super::line::{LineError, Lines};

const LIMIT: Duration = Duration::from_secs(10);

/// Asks QEMU for one thing over a connection of its own.
async fn ask(socket: &Path, command: &str) -> Result<Value, LineError> {
    let work = async {
        let mut lines = Lines::new(UnixStream::connect(socket).await?);
        lines.receive().await?;
        for execute in ["qmp_capabilities", command] {
            lines.send(&json!({"execute": execute})).await?;
            loop {
                let mut answer = lines.receive().await?;
                if let Some(error) = answer.get("error") {
                    return Err(LineError::Refused(error.to_string()));
                }
                // Anything else is an event.
                if answer.get("return").is_some() {
                    if execute == command {
                        return Ok(answer["return"].take());
                    }
                    break;
                }
            }
        }
        Err(LineError::Closed)
    };
    timeout(LIMIT, work).await.map_err(|_| LineError::Timeout(LIMIT))?
}

/// Port on which the console listens.
pub(super) async fn console_port(socket: &Path) -> Result<u16, LineError> {
    let answer = ask(socket, "query-vnc").await?;
    let port = answer["service"].as_str().and_then(|text| text.parse().ok());
    port.ok_or_else(|| LineError::Refused("there is no console".to_owned()))
}

/// Presses the power button.
pub(super) async fn power_button(socket: &Path) -> Result<(), LineError> {
    ask(socket, "system_powerdown").await.map(drop)
}

/// Ends QEMU at once, as cutting the power does. The connection may end before the answer comes.
pub(super) async fn quit(socket: &Path) -> Result<(), LineError> {
    match ask(socket, "quit").await {
        Err(LineError::Closed) => Ok(()),
        other => other.map(drop),
    }
}
