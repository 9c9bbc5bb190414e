//! Machines saved at one moment, from which as many as wanted go on: a start takes a second then.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Config, Vm, folder, image_folder, qmp};

/// The name of the saved machine inside its disk.
const NAME: &str = "saved";

/// Longest time of a boot on a busy machine without KVM.
const BOOT: Duration = Duration::from_secs(240);

/// A saved machine.
#[derive(Debug, Clone)]
pub struct Saved {
    config: Config,
    disk: PathBuf,
}

impl Saved {
    /// A machine of our image that waits for its boot arguments: the guest agent answers, no role
    /// is chosen yet. Its cards are as in `config`. It is made once for each image and number of
    /// cards and kept in the target folder.
    pub fn before_arguments(config: Config) -> Self {
        let image = fs::metadata(image_folder().join("trivium.qcow2")).expect("image");
        let key = format!("{}-{}-{}", config.nics.len(), image.len(), image.mtime());
        let folder = target_folder().join("tmp/vm");
        fs::create_dir_all(&folder).expect("folder for saved machines");
        let lock = fs::File::create(folder.join("lock")).expect("lock of saved machines");
        lock.lock().expect("lock of saved machines");
        let disk = folder.join(format!("{key}.qcow2"));
        if !disk.exists() {
            remove_others(&folder, config.nics.len());
            let vm = Vm::start(config.clone());
            vm.agent(BOOT);
            qmp::command(&vm.folder().join("qmp"), "savevm", NAME);
            qmp::command(&vm.folder().join("qmp"), "stop", "");
            copy(&vm.folder().join("disk.qcow2"), &disk);
        }
        Self { config, disk }
    }

    /// A machine that goes on from the saved moment. Its cards are the same; `change` may put
    /// them behind the taps of another namespace.
    pub fn restore(&self, change: impl FnOnce(Config) -> Config) -> Vm {
        let dir = folder();
        copy(&self.disk, &dir.path().join("disk.qcow2"));
        Vm::run(change(self.config.clone()), dir, Some(NAME))
    }
}

/// Copies under a name of its own first, so that a torn copy is never taken for a whole one.
fn copy(from: &Path, to: &Path) {
    let part = to.with_extension("part");
    fs::copy(from, &part).and_then(|_| fs::rename(&part, to)).expect("copy of a saved machine");
}

/// Removes machines of earlier images with as many cards.
fn remove_others(folder: &Path, cards: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("{cards}-")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The target folder that the running test was built into.
fn target_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("path of the test");
    exe.ancestors().nth(3).expect("target folder").to_owned()
}
