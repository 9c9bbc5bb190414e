//! What a serve process may still do: its own user, no new privileges, only the folders it was given
//! (landlock), and no system calls beyond those a network server needs (seccomp).

use std::{fs, io};

use crate::paths::Paths;

/// An account of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
}

impl User {
    /// The account under which serve processes run.
    pub const SERVE: &'static str = "serve";

    /// Looks an account up in `/etc/passwd`; `None` where there is none of this name.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn named(paths: &Paths, name: &str) -> io::Result<Option<Self>> {
        let text = fs::read_to_string(paths.at("/etc/passwd"))?;
        Ok(text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [user, _, uid, gid, ..] if user == name => {
                    Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
                }
                _ => None,
            }
        }))
    }
}
