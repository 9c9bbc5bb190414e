//! Pasted text read by a guest: a Linux console with the keyboard of each layout, which says on its serial line what
//! it was given. The kernel is that of the image (`image/build` comes first), the keyboards are Debian's.

use std::{fs, path::Path};

use tests::lab::cpvm::{
    LIMIT, Lab, PUBLIC, WORLD,
    browser::{chromium, in_state, keep, paste},
    run,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

/// Keyboards of the page, their names among Debian's keymaps, and what is pasted.
const KEYBOARDS: [(&str, &str, &str); 5] = [
    ("de", "de-latin1", "zyZY@\u{e4}\u{d6}\u{df}{[]}~\\|<>1!"),
    ("fr", "fr-latin9", "azAqwm\u{e9}\u{e8}\u{e7}\u{e0}1@[{#"),
    ("tr", "trqu", "i\u{131}I\u{130}\u{11f}\u{15f}\u{f6}\u{e7}\u{fc}.,1"),
    ("jp", "jp106", "yz@[]:_|^\"'()=1"),
    ("us", "us", "aB1!~`{}|\\\"'<>?"),
];

/// The first program of the guest.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t devtmpfs dev /dev
exec < /dev/tty1 > /dev/tty1 2>&1
say() { echo \"GUEST $*\" > /dev/ttyS0; }
say ready
while read -r layout < /dev/ttyS0; do
  loadkmap < /maps/$layout
  say keyboard $layout
  IFS= read -r line
  printf 'GUEST read %s\\n' \"$line\" > /dev/ttyS0
done
";

/// Runs a command that has to succeed.
fn shell(command: &str) {
    let status = std::process::Command::new("bash").args(["-ec", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// The guest's disk in memory.
fn initramfs(folder: &Path) -> String {
    let tree = folder.join("guest");
    fs::create_dir_all(tree.join("maps")).unwrap();
    fs::write(tree.join("init"), INIT).unwrap();
    for (layout, keymap, _) in KEYBOARDS {
        shell(&format!("loadkeys -q -b -u {keymap} > {}", tree.join("maps").join(layout).display()));
    }
    let out = folder.join("guest.gz");
    shell(&format!(
        "cd {}; mkdir bin dev proc; cp /bin/busybox bin; chmod +x init; find . | cpio --quiet -o -H newc -R 0:0 | gzip -1n > {}",
        tree.display(),
        out.display()
    ));
    out.display().to_string()
}

/// The next line that the guest says.
async fn said(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> String {
    loop {
        let line =
            timeout(LIMIT * 2, lines.next_line()).await.expect("in time").unwrap().expect("the guest runs");
        if let Some((_, said)) = line.split_once("GUEST ") {
            return said.trim_end_matches('\r').to_owned();
        }
    }
}

fn kernel() -> String {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/cache");
    let found = fs::read_dir(&cache).into_iter().flatten().flatten().find_map(|entry| {
        let boot = entry.file_name().to_str()?.starts_with("kernel-").then(|| entry.path().join("boot"))?;
        let files = fs::read_dir(boot).ok()?.flatten();
        files.map(|file| file.path()).find(|path| path.to_string_lossy().contains("vmlinuz-"))
    });
    found
        .unwrap_or_else(|| panic!("no kernel below {}: image/build comes first", cache.display()))
        .display()
        .to_string()
}

/// A guest whose screen is at 5901, and its serial line.
async fn guest(lab: &Lab) -> (tests::lab::Process, TcpStream) {
    let mut command = lab.world.command("qemu-system-x86_64");
    command.args([
        "-accel",
        "tcg",
        "-m",
        "96",
        "-display",
        "none",
        "-nodefaults",
        "-vga",
        "std",
        "-no-reboot",
    ]);
    command.args(["-kernel", &kernel(), "-initrd", &initramfs(lab.folder.path())]);
    command.args(["-append", "console=ttyS0 console=tty0 quiet"]);
    command.args(["-serial", &format!("tcp:{WORLD}:7001,server=on,wait=off"), "-vnc", &format!("{WORLD}:1")]);
    let machine = tests::lab::Process::start(command);
    tests::lab::wait_tcp(format!("{WORLD}:7001").parse().unwrap(), LIMIT);
    (machine, TcpStream::connect((WORLD, 7001)).await.unwrap())
}

#[test]
fn a_guest_reads_what_is_pasted_on_each_keyboard() {
    run("vncport=8080", true, async |lab| {
        let (_machine, serial) = guest(lab).await;
        let (lines, mut serial) = serial.into_split();
        let mut lines = BufReader::new(lines).lines();
        assert_eq!(said(&mut lines).await, "ready");
        let (_driver, client) = chromium(lab).await;
        let token = lab.announced(5901, |_| {}).await;
        client
            .goto(&format!("http://{PUBLIC}/resource/noVNC/vnc.html?port=8080&token={token}"))
            .await
            .unwrap();
        in_state(&client, "connected").await;
        for (layout, _, typed) in KEYBOARDS {
            serial.write_all(format!("{layout}\n").as_bytes()).await.unwrap();
            assert_eq!(said(&mut lines).await, format!("keyboard {layout}"));
            paste(&client, layout, &format!("{typed}\n")).await;
            assert_eq!(said(&mut lines).await, format!("read {typed}"), "{layout}");
            keep(&client, &format!("guest-{layout}.png")).await;
        }
        client.close().await.unwrap();
    });
}
