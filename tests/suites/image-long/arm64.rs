//! The image for arm64, as far as a machine of another architecture can try it: its packages resolve, and its kernel and
//! first stage start its root, checked by the hash tree, with a stub in the place of our programs.

use std::{fs, path::Path, process::Command, time::Duration};

use tests::lab::{Process, wait_until};

use crate::roots::{image, script};

/// What the stub says; nothing of ours runs before it.
const SAID: &str = "stub: the root for arm64 runs";

#[test]
fn the_kernel_and_the_root_for_arm64_start() {
    let built = Command::new(image().join("build")).args(["--arch", "arm64"]).output().expect("image/build");
    assert!(built.status.success(), "{built:?}");
    let folder = tempfile::tempdir().expect("folder");
    let disk = folder.path().join("disk");
    let text = format!(
        "IMAGE=$PWD CACHE=$PWD/cache/arm64 ARCH=arm64 KEY=$PWD/key/bundle.pem
         for part in say arch packages kernel bill tree slot disk; do . lib/$part.sh; done
         name=$(locked | awk '$1 == \"build\" && $2 ~ /^linux-image/ {{ print $2 }}'); KVER=${{name#linux-image-}}
         need_key; work=$(dirname \"$1\"); mkdir -p \"$work/opt/trivium\"; cp out-arm64/base.squashfs \"$work/root\"
         printf '#!/usr/lib/execline/bin/execlineb -P\\nredirfd -w 1 /dev/console\\necho \"{SAID}\"\\n' > \"$work/opt/trivium/boot\"
         chmod 755 \"$work/opt/trivium/boot\"; squash \"$work/opt\" \"$work/root\" -keep-as-directory
         build_slot \"$work/root\" \"$work/slot\"; truncate -s 600M \"$1\"
         printf '%s\\n' 'label: gpt' 'start=1MiB, size=128MiB, name=root-a' 'size=128MiB, name=root-b' 'size=300MiB, name=state' |
            sfdisk --quiet \"$1\"
         place \"$1\" \"$work/slot.raw\" 1"
    );
    script(&text, &[&disk]);
    let serial = folder.path().join("serial");
    let parts = image().join("out-arm64");
    let mut command = Command::new("qemu-system-aarch64");
    command.args([
        "-M",
        "virt",
        "-cpu",
        "cortex-a57",
        "-m",
        "512",
        "-display",
        "none",
        "-no-reboot",
        "-kernel",
    ]);
    command.arg(parts.join("vmlinux")).arg("-initrd").arg(parts.join("initrd"));
    command.args(["-append", "console=ttyAMA0 quiet net.ifnames=0 panic=1", "-serial"]);
    command.arg(format!("file:{}", serial.display())).arg("-drive");
    command.arg(format!("file={},if=none,id=disk,format=raw", disk.display()));
    command.args(["-device", "virtio-blk-pci,drive=disk"]);
    let mut machine = Process::start(command);
    let read = |path: &Path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    wait_until("the root for arm64", Duration::from_secs(300), || {
        let text = read(&serial).unwrap_or_default();
        assert!(machine.runs(), "QEMU ended: {}{text}", machine.output());
        text.contains(SAID)
    });
}
