//! Boots the built image: the disk, the roles, the boot arguments, SSH, faults.

mod arguments;
mod disk;
mod faults;
mod lab;
mod pair;
mod roles;
mod six;
mod ssh;
mod traffic;
mod vpc;

use tests::lab::documents;
