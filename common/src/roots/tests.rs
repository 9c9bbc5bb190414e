use std::fs;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

/// A machine whose slots are files: the first runs, the second and the choice are empty.
struct Machine {
    _folder: tempfile::TempDir,
    paths: Paths,
    key: Ed25519KeyPair,
}

const ROOM: usize = 16 * BLOCK;

impl Machine {
    fn new(trial: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for path in ["/dev", "/opt/trivium", "/state"] {
            fs::create_dir_all(paths.at(path)).unwrap();
        }
        fs::create_dir_all(paths.run()).unwrap();
        fs::create_dir_all(paths.cache()).unwrap();
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        fs::write(paths.at("/opt/trivium/bundle.pub"), hex::encode(key.public_key())).unwrap();
        fs::write(paths.at("/dev/b"), vec![7; ROOM]).unwrap();
        fs::write(paths.at("/dev/state"), vec![0; ROOM]).unwrap();
        let machine = Self { _folder: folder, paths, key };
        machine.runs("a", trial, &"0".repeat(64));
        machine
    }

    fn runs(&self, slot: &str, trial: &str, root: &str) {
        let text = format!(
            "slot={slot}\nversion=one\nroot={root}\ntrial={trial}\nother=/dev/b\nchoice=/dev/state\n"
        );
        fs::write(self.paths.run().join("root"), text).unwrap();
    }

    fn kernel() -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    fn header(&self, text: &str) -> Vec<u8> {
        let mut block = text.to_owned().into_bytes();
        let signature = hex::encode(self.key.sign(&block).as_ref());
        block.extend_from_slice(format!("signature={signature}\n").as_bytes());
        block.resize(BLOCK, 0);
        block
    }

    /// A bundle with a file system of three blocks and a tree of one.
    fn bundle(&self, kernel: &str) -> Vec<u8> {
        let content: Vec<u8> = (0..4 * BLOCK).map(|n| (n / 5) as u8).collect();
        let sum = hex::encode(Sha256::digest(&content));
        let mut bundle = self.header(&format!(
            "trivium-root 1\nversion=two\nkernel={kernel}\ndata={}\ntree={BLOCK}\nroot={}\nsalt={}\nsum={sum}\n",
            3 * BLOCK,
            "a".repeat(64),
            "b".repeat(64),
        ));
        bundle.extend_from_slice(&content);
        bundle
    }

    fn send(&self, bundle: &[u8], step: usize) -> Verdict {
        let mut receiver = Receiver::new(&self.paths);
        for part in bundle.chunks(step) {
            receiver.write(part);
        }
        let said = receiver.finish();
        assert_eq!(verdict(&self.paths).unwrap(), said);
        said
    }

    fn slot(&self) -> Vec<u8> {
        fs::read(self.paths.at("/dev/b")).unwrap()
    }

    fn choice(&self) -> Option<Choice> {
        Choice::parse(&read_last(&self.paths.at("/dev/state")).unwrap())
    }
}

#[test]
fn a_bundle_goes_into_the_other_slot_and_is_tried_once() {
    let machine = Machine::new("no");
    let bundle = machine.bundle(&Machine::kernel());
    assert!(matches!(try_next(&machine.paths), Err(RootsError::Empty)));
    for step in [1000, BLOCK, bundle.len()] {
        fs::write(machine.paths.at("/dev/b"), vec![7; ROOM]).unwrap();
        assert_eq!(machine.send(&bundle, step), Verdict::Ready("two".into()));
        let slot = machine.slot();
        assert_eq!(slot[..4 * BLOCK], bundle[BLOCK..]);
        assert_eq!(slot[ROOM - BLOCK..], bundle[..BLOCK]);
    }
    assert_eq!(machine.choice(), None, "a bundle alone chooses nothing");
    assert!(status(&machine.paths).contains("bundle: two is in place"));
    assert_eq!(try_next(&machine.paths).unwrap().version, "two");
    let tried = Choice { active: Slot::A, attempt: Some(Slot::B), left: 1, failed: None };
    assert_eq!(machine.choice(), Some(tried));
    assert!(status(&machine.paths).contains("root: the next start tries two in slot b"));
    // The same again finds it there.
    let before = machine.slot();
    assert_eq!(machine.send(&bundle, BLOCK), Verdict::Ready("two".into()));
    assert_eq!(machine.slot(), before);
}

#[test]
fn what_is_not_ours_is_refused_before_a_byte_is_written() {
    let machine = Machine::new("no");
    let good = machine.bundle(&Machine::kernel());
    let stranger = Machine::new("no").bundle(&Machine::kernel());
    let mut longer = good.clone();
    longer[2000] = 1;
    for (bundle, why) in [
        (stranger, "signature"),
        (machine.bundle("5.10.0-1-amd64"), "kernel 5.10.0-1-amd64"),
        (longer, "something follows"),
        (good[..1000].to_vec(), "within its header"),
        (machine.header("trivium-root 1\nversion=two\n"), "malformed"),
    ] {
        let Verdict::Refused(said) = machine.send(&bundle, 999) else { panic!("{why}") };
        assert!(said.contains(why), "{said}");
        assert!(machine.slot().iter().all(|byte| *byte == 7), "{why}");
        assert!(status(&machine.paths).contains("bundle: refused, nothing was changed"));
    }
    assert_eq!(machine.send(b"\x1f\x8b a tar", 3), Verdict::Stock);
    assert_eq!(machine.send(b"", 3), Verdict::Stock);
    machine.runs("a", "no", &"a".repeat(64));
    assert_eq!(machine.send(&good, 4000), Verdict::Same("two".into()));
    assert!(machine.slot().iter().all(|byte| *byte == 7));
}

#[test]
fn a_bundle_that_is_cut_or_changed_leaves_no_root() {
    let machine = Machine::new("no");
    let good = machine.bundle(&Machine::kernel());
    let mut other = good.clone();
    other[2 * BLOCK] ^= 1;
    let more = [good.as_slice(), b"more"].concat();
    for (bundle, why) in
        [(&good[..3 * BLOCK], "missing"), (&other, "not what its header says"), (&more, "longer")]
    {
        let Verdict::Refused(said) = machine.send(bundle, 5000) else { panic!("{why}") };
        assert!(said.contains(why), "{said}");
        assert!(matches!(try_next(&machine.paths), Err(RootsError::Empty)), "{why}");
    }
    assert_eq!(machine.choice(), None);
}

#[test]
fn a_root_on_trial_keeps_the_one_before() {
    let machine = Machine::new("yes");
    let tried = Choice { active: Slot::B, attempt: Some(Slot::A), left: 0, failed: None };
    write_last(&machine.paths.at("/dev/state"), &tried.block()).unwrap();
    let bundle = machine.bundle(&Machine::kernel());
    assert!(matches!(machine.send(&bundle, 4096), Verdict::Refused(why) if why.contains("tried")));
    assert!(machine.slot().iter().all(|byte| *byte == 7));
    assert!(matches!(try_next(&machine.paths), Err(RootsError::Trial)));
    assert!(!confirm(&machine.paths, Default::default(), Default::default()).unwrap(), "nothing is ready");
    assert_eq!(machine.choice(), Some(tried));
    // Once it was found well, it is on trial no more.
    write_last(&machine.paths.at("/dev/state"), &Choice::settled(Slot::A).block()).unwrap();
    assert!(!Running::load(&machine.paths).unwrap().trial);
    assert_eq!(machine.send(&bundle, 4096), Verdict::Ready("two".into()));
}

#[test]
fn choices_are_read_as_written() {
    for choice in [
        Choice::settled(Slot::B),
        Choice { active: Slot::A, attempt: Some(Slot::B), left: 1, failed: None },
        Choice { active: Slot::B, attempt: None, left: 0, failed: Some(Slot::A) },
    ] {
        assert_eq!(Choice::parse(&choice.block()), Some(choice));
    }
    assert_eq!(Choice::parse(&[0; BLOCK]), None);
}

proptest! {
    #[test]
    fn any_block_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        let mut block = [MAGIC, text.as_bytes(), &bytes].concat();
        block.resize(BLOCK, 0);
        prop_assert!(Header::parse(&block).is_err());
        let mut block = [b"trivium-choice 1\n", text.as_bytes(), &bytes].concat();
        block.resize(BLOCK, 0);
        prop_assert!(Choice::parse(&block).is_none_or(|choice| choice.left == 0));
    }
}
