//! `diagnostics.py` (router contract 2.10): ping and its kin from the router, always answered in three
//! parts.

use std::{io, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::nft::run::PROGRAMS;

/// The caller waits 60 s.
const LIMIT: Duration = Duration::from_secs(55);

/// Runs one diagnosis and gives its standard output, standard error and exit code in the form that the
/// management server splits.
pub(super) async fn run(words: &[&str]) -> String {
    let (out, error, code) = match command(words) {
        Ok((program, arguments)) => execute(program, &arguments).await,
        Err(reason) => (String::new(), reason, 2),
    };
    format!("{}&&\n{}&&\n{code}\n", clean(&out), clean(&error))
}

/// What would split the answer into more parts is taken out.
fn clean(text: &str) -> String {
    text.trim().replace("&&", "& &")
}

/// The program and its arguments. Nothing passes a shell; words that could mean a file do not pass at all.
fn command<'a>(words: &[&'a str]) -> Result<(&'static str, Vec<&'a str>), String> {
    let Some((kind, rest)) = words.split_first() else { return Err("no diagnosis is named".to_owned()) };
    let (program, bound): (&'static str, [&'a str; 2]) = match *kind {
        "ping" => ("ping", ["-c", "4"]),
        "ping6" => ("ping6", ["-c", "4"]),
        "arping" => ("arping", ["-c", "4"]),
        "traceroute" => ("traceroute", ["-m", "20"]),
        "traceroute6" => ("traceroute6", ["-m", "20"]),
        other => return Err(format!("unknown diagnosis {other:?}")),
    };
    let allowed = |word: &&&str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:%".contains(&b));
    if let Some(bad) = rest.iter().find(|word| !allowed(word)) {
        return Err(format!("{bad:?} cannot be part of a diagnosis"));
    }
    let mut arguments = rest.to_vec();
    if !rest.iter().any(|word| word.starts_with(bound[0])) {
        arguments.splice(0..0, bound);
    }
    Ok((program, arguments))
}

async fn execute(program: &str, arguments: &[&str]) -> (String, String, i32) {
    let run = async {
        match start(program, arguments).await {
            // Its package has it under this name, and leaves the other one to whoever installs it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                start(&format!("{program}.db"), arguments).await
            }
            other => other,
        }
    };
    match timeout(LIMIT, run).await {
        Err(_) => (String::new(), format!("{program} took longer than {} s", LIMIT.as_secs()), 124),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            (String::new(), format!("{program} is not part of this router"), 127)
        }
        Ok(Err(error)) => (String::new(), format!("{program}: {error}"), 126),
        Ok(Ok(output)) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(125))
        }
    }
}

async fn start(program: &str, arguments: &[&str]) -> io::Result<std::process::Output> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", PROGRAMS).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_set_where_there_is_none() {
        assert_eq!(command(&["ping", "10.1.1.20"]).unwrap(), ("ping", vec!["-c", "4", "10.1.1.20"]));
        assert_eq!(command(&["ping", "-c2", "10.1.1.20"]).unwrap(), ("ping", vec!["-c2", "10.1.1.20"]));
        assert_eq!(command(&["traceroute", "x"]).unwrap().1[..2], ["-m", "20"]);
    }

    #[tokio::test]
    async fn there_are_always_three_parts() {
        for words in [&[][..], &["reboot"], &["ping", "a;b"], &["ping", "/etc/passwd"]] {
            let answer = run(words).await;
            assert_eq!(answer.split("&&").count(), 3, "{answer}");
            assert!(answer.ends_with("&&\n2\n"), "{answer}");
        }
    }
}
