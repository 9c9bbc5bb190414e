//! From the way the shim was started to the answer.

use std::{
    io::{self, BufReader, Write},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    certificate, local,
    recognise::{self, CHECK, Call, Refused},
    scp, service, sftp,
    wire::{self, Reply, Request, WireError},
};
use crate::{journal, paths::Paths, timeline};

/// Longest time for a command that the core answers.
const COMMAND: Duration = Duration::from_secs(600);
/// Time for a core that is just being started to open its socket.
const CORE: Duration = Duration::from_secs(15);

const HELP: &str = "\
Commands: status, logs [service], timeline, replace, help, systemctl start|stop|restart|status <service>,
rules, explain <packet>, diff <document>, metrics (router), sessions, cut <number> (console proxy),
and the scripts below /opt/cloud/bin.
There is no shell in this VM.
";

/// What the words of the process ask for: as a login shell (`-c` and a string), under the name of a script, or by
/// its own name.
///
/// # Errors
/// Where that is not known.
fn call(words: &[String]) -> Result<Call, Refused> {
    let name = words.first().map(|word| word.rsplit('/').next().unwrap_or(word)).unwrap_or_default();
    let rest = words.get(1..).unwrap_or_default();
    match (name, rest) {
        ("shim" | "-shim", [flag, text]) if flag == "-c" => recognise::recognise(text),
        ("shim", [word]) if word == "sftp" => Ok(Call::Sftp),
        ("shim" | "-shim", []) => Ok(Call::Help),
        ("shim" | "-shim", rest) => recognise::script(&rest[0], rest[1..].to_vec()),
        (name, rest) => recognise::script(name, rest.to_vec()),
    }
}

/// Runs the shim with the words of the process (its name first); returns the exit code.
pub fn run(
    paths: &Paths,
    words: &[String],
    input: impl io::Read,
    output: &mut impl Write,
    errors: &mut impl Write,
) -> u8 {
    let reply = match call(words) {
        Ok(Call::Receive { target }) => {
            let done = scp::receive(paths, &target, &mut BufReader::with_capacity(64 * 1024, input), output);
            match done {
                Ok(true) => Reply::default(),
                Ok(false) => Reply { code: 1, ..Reply::default() },
                Err(error) => Reply::fail(1, format_args!("scp: {error}")),
            }
        }
        Ok(Call::Send { path }) => match scp::send(paths, &path, &mut BufReader::new(input), output) {
            Ok(()) => Reply::default(),
            Err(error) => Reply::fail(1, format_args!("scp: {error}")),
        },
        Ok(Call::Sftp) => match sftp::serve(paths, &mut BufReader::with_capacity(64 * 1024, input), output) {
            Ok(()) => Reply::default(),
            Err(error) => Reply::fail(1, format_args!("sftp: {error}")),
        },
        Ok(call) => answer(paths, call),
        Err(refused) => {
            journal::note(paths, "shim", &format!("refused: {refused}"));
            Reply::fail(refused.code(), &refused)
        }
    };
    // A host that has hung up hears nothing any more.
    let _ = output.write_all(reply.stdout.as_bytes()).and_then(|()| output.flush());
    let _ = errors.write_all(reply.stderr.as_bytes()).and_then(|()| errors.flush());
    reply.code
}

/// The answer to a command that is not a transfer.
fn answer(paths: &Paths, call: Call) -> Reply {
    match call {
        Call::Version => local::version(paths),
        Call::Patched { pattern } => local::patched(paths, &pattern),
        Call::Patch => local::patch(paths),
        Call::KeySetup(arguments) => outcome(paths, "keystore-setup", certificate::setup(paths, &arguments)),
        Call::CertificateImport(arguments) => {
            outcome(paths, "keystore-cert-import", certificate::import(paths, &arguments))
        }
        Call::Interfaces => local::interfaces(paths),
        Call::Mac { device } => local::mac(paths, &device),
        Call::KeepCmdline => local::keep_cmdline(paths),
        Call::ShowCmdline => local::show_cmdline(paths),
        Call::Ping(address) => local::ping(address),
        Call::Service { action, service } => service::control(paths, &service, action),
        Call::ServiceStatus { service, brief } => service::show(paths, &service, brief),
        Call::PowerOff => {
            journal::note(paths, "shim", "power off");
            local::power_off()
        }
        Call::Cleanup { path } => local::cleanup(paths, &path),
        Call::Writable => local::writable(paths),
        Call::Status => service::status(paths),
        Call::Logs { service } => service::logs(paths, service.as_deref()),
        Call::Timeline => Reply::ok(timeline::read(paths)),
        Call::Replace => local::replace(paths),
        Call::Core(words) => core(paths, words),
        Call::Help | Call::Receive { .. } | Call::Send { .. } | Call::Sftp => Reply::ok(HELP),
    }
}

fn outcome(paths: &Paths, command: &str, result: Result<String, certificate::CertificateError>) -> Reply {
    match result {
        Ok(text) => {
            journal::note(paths, "shim", &format!("{command}: done"));
            Reply::ok(text)
        }
        Err(error) => {
            journal::note(paths, "shim", &format!("{command}: {error}"));
            Reply::fail(1, format_args!("{command}: {error}"))
        }
    }
}

/// Has the role's core answer; one that is just being started is waited for.
fn core(paths: &Paths, words: Vec<String>) -> Reply {
    let command = words.first().cloned().unwrap_or_default();
    let request = Request { words };
    let start = Instant::now();
    loop {
        match wire::call(paths, &request, COMMAND) {
            Ok(reply) => return reply,
            Err(WireError::Io(error))
                if start.elapsed() < CORE
                    && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                sleep(Duration::from_millis(100));
            }
            Err(error) => {
                journal::note(paths, "shim", &format!("{command}: {error}"));
                return Reply::fail(dead(&command), format_args!("{command}: {error}"));
            }
        }
    }
}

/// The exit code of a command whose core is not there: the check of a secondary storage VM has one for that.
fn dead(command: &str) -> u8 {
    if command == CHECK { 3 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Call, Refused> {
        call(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn ways_to_be_started() {
        assert_eq!(of(&["-shim", "-c", "status"]), Ok(Call::Status));
        assert_eq!(of(&["/usr/lib/trivium/shim", "-c", "/usr/lib/trivium/shim sftp"]), Ok(Call::Sftp));
        assert_eq!(of(&["/usr/lib/trivium/shim", "sftp"]), Ok(Call::Sftp));
        assert_eq!(of(&["-shim"]), Ok(Call::Help));
        assert_eq!(of(&["/opt/cloud/bin/get_template_version.sh", "null"]), Ok(Call::Version));
        assert_eq!(of(&["shim", "logs", "core"]), Ok(Call::Logs { service: Some("core".into()) }));
        assert!(of(&["shim", "-c", "id; id"]).is_err());
        assert!(of(&["bash"]).is_err());
        assert_eq!(of(&[]), Err(Refused::Unknown(String::new())));
    }

    #[test]
    fn answers_and_exit_codes() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        std::fs::create_dir_all(paths.at("/var/log")).unwrap();
        let run = |text: &str, input: &[u8]| {
            let (mut output, mut errors) = (Vec::new(), Vec::new());
            let words = ["-shim", "-c", text].map(str::to_owned);
            let code = run(&paths, &words, input, &mut output, &mut errors);
            (code, output, String::from_utf8(errors).unwrap())
        };
        assert_eq!(run("help", b"").1, HELP.as_bytes());
        assert_eq!(run("rm -rf /", b"").0, 127);
        let refused = run("status; reboot", b"");
        assert_eq!((refused.0, refused.2.as_str()), (126, "not allowed: ';' has no meaning here\n"));
        let log = std::fs::read_to_string(paths.at("/var/log/shim.log")).unwrap();
        assert!(
            log.contains("refused: rm: no such command") && log.contains("refused: not allowed"),
            "{log}"
        );
        let copied = run("scp -t -d /var/cache/cloud/", b"C0600 2 a.json\n{}\0E\n");
        assert_eq!((copied.0, copied.1.as_slice()), (0, &[0, 0, 0, 0][..]));
        assert_eq!(run("scp -t /etc/", b"C0600 2 passwd\n").0, 1);
    }
}
