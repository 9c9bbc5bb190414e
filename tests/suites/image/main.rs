//! Boots the built image: the disk, the roles, the boot arguments, SSH.

mod arguments;
mod disk;
mod lab;
mod roles;
mod ssh;
