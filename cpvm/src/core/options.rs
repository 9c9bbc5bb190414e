//! What the operator decides about consoles: the file `console.json` in `/var/cache/cloud`, read anew for each
//! console, so that a change is in force for the next one.
//!
//! ```json
//! {"require_tls": true, "recording": {"vms": ["*"], "session_mib": 32, "total_mib": 256}}
//! ```

use std::{fs, io, path::Path};

use serde_json::Value;

/// Name of the file.
pub const FILE: &str = "console.json";
/// Stands for every VM.
const ALL: &str = "*";
/// How the file as a whole is called where it is wrong.
const WHOLE: &str = "it";

/// The file's content. Without one all is off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether a screen is shown only where TLS leads to it.
    pub require_tls: bool,
    /// Which consoles are recorded.
    pub recording: Option<Recording>,
}

/// Which consoles are recorded, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// UUIDs of VMs, or `*` for all.
    pub vms: Vec<String>,
    /// Longest recording of one console, MiB.
    pub session_mib: u64,
    /// All recordings together, MiB; the oldest go first.
    pub total_mib: u64,
}

impl Recording {
    /// Whether consoles of this VM are recorded.
    pub fn covers(&self, vm: &str) -> bool {
        self.vms.iter().any(|named| named == ALL || named == vm)
    }
}

/// Reads the file. Where it cannot be used, what was in force stays so; where nothing was, no screen is shown
/// without TLS and nothing is recorded.
///
/// # Errors
/// The options that are in force all the same, and what is wrong with the file.
pub fn read(cache: &Path, before: Option<&Options>) -> Result<Options, (Options, String)> {
    let parsed = match fs::read(cache.join(FILE)) {
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Options::default()),
        Err(error) => Err(error.to_string()),
    };
    parsed.map_err(|wrong| {
        let safe = || Options { require_tls: true, recording: None };
        let (options, what) = match before {
            Some(before) => (before.clone(), "what it said before stays in force"),
            None => (safe(), "until it is mended, TLS is required and nothing is recorded"),
        };
        (options, format!("{FILE}: {wrong}; {what}"))
    })
}

/// The words of a folder of the file, each of which `take` knows.
fn each(
    value: Value,
    at: &str,
    mut take: impl FnMut(&str, Value) -> Option<Result<(), &'static str>>,
) -> Result<(), String> {
    let Value::Object(words) = value else { return Err(format!("{at} is no object")) };
    for (word, value) in words {
        let place = if at == WHOLE { word.clone() } else { format!("{at}.{word}") };
        match take(&word, value) {
            Some(Ok(())) => {}
            Some(Err(wanted)) => return Err(format!("{place} is not {wanted}")),
            None => return Err(format!("{place} is not known")),
        }
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Options, String> {
    let whole = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let (mut options, mut recording) = (Options::default(), None);
    each(whole, WHOLE, |word, value| match word {
        "require_tls" => Some(value.as_bool().map(|yes| options.require_tls = yes).ok_or("true or false")),
        "recording" => {
            recording = Some(value);
            Some(Ok(()))
        }
        _ => None,
    })?;
    options.recording = recording.filter(|value| !value.is_null()).map(of_recording).transpose()?;
    Ok(options)
}

fn of_recording(value: Value) -> Result<Recording, String> {
    let mut recording = Recording { vms: Vec::new(), session_mib: 32, total_mib: 256 };
    let size = |value: &Value, to: &mut u64| {
        value.as_u64().filter(|mib| *mib > 0).map(|mib| *to = mib).ok_or("a number of MiB above 0")
    };
    each(value, "recording", |word, value| match word {
        "vms" => {
            let vms = serde_json::from_value(value).map(|vms| recording.vms = vms);
            Some(vms.map_err(|_| "a list of UUIDs"))
        }
        "session_mib" => Some(size(&value, &mut recording.session_mib)),
        "total_mib" => Some(size(&value, &mut recording.total_mib)),
        _ => None,
    })?;
    if recording.vms.is_empty() {
        return Err("recording.vms names no VM".to_owned());
    }
    if recording.session_mib > recording.total_mib {
        return Err(format!(
            "recording.session_mib is {}, more than total_mib, {}",
            recording.session_mib, recording.total_mib
        ));
    }
    Ok(recording)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_all_is_off() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), None), Ok(Options::default()));
        fs::write(folder.path().join(FILE), "{}").unwrap();
        assert_eq!(read(folder.path(), None), Ok(Options::default()));
    }

    #[test]
    fn the_file_says_what_is_recorded() {
        let options = parse(br#"{"recording": {"vms": ["a", "b"], "session_mib": 8}}"#).unwrap();
        let recording = options.recording.unwrap();
        assert!(!options.require_tls && recording.covers("a") && !recording.covers("c"));
        assert_eq!((recording.session_mib, recording.total_mib), (8, 256));
        let all = parse(br#"{"require_tls": true, "recording": {"vms": ["*"]}}"#).unwrap();
        assert!(all.require_tls && all.recording.unwrap().covers("c"));
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_opens_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let before = Options { require_tls: false, recording: None };
        for (text, named) in [
            ("{", "EOF"),
            (r#"{"requires_tls": true}"#, "requires_tls"),
            (r#"{"recording": {"vms": "all"}}"#, "vms"),
            (r#"[]"#, "it is no object"),
            (r#"{"recording": {"session_mib": 8}}"#, "recording.vms names no VM"),
            (r#"{"require_tls": 1}"#, "require_tls is not true or false"),
            (r#"{"recording": {"vm": ["a"]}}"#, "recording.vm is not known"),
            (r#"{"recording": {"vms": [], "session_mib": 0}}"#, "session_mib"),
            (r#"{"recording": {"vms": ["*"], "session_mib": 9, "total_mib": 8}}"#, "total_mib"),
            (r#"{"recording": {"vms": [], "session_mib": -1}}"#, "recording.session_mib is not a number"),
        ] {
            fs::write(folder.path().join(FILE), text).unwrap();
            let (options, wrong) = read(folder.path(), None).unwrap_err();
            assert!(options.require_tls && options.recording.is_none(), "{text}");
            assert!(wrong.contains(named), "{text}: {wrong}");
            assert_eq!(read(folder.path(), Some(&before)).unwrap_err().0, before);
        }
    }
}
