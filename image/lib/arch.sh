# The architecture of the image ($ARCH, Debian's name) and what follows from it.

# Whether programs of the image do not run on this machine, and Rust has no library for them.
foreign() { [ "$ARCH" != "$(dpkg --print-architecture)" ]; }

# Sets MULTIARCH, the folder of libraries, and LOADER, the path of what loads them.
set_arch() {
    case $ARCH in
    amd64) MULTIARCH=x86_64-linux-gnu LOADER=/lib64/ld-linux-x86-64.so.2 ;;
    arm64) MULTIARCH=aarch64-linux-gnu LOADER=/lib/ld-linux-aarch64.so.1 ;;
    esac
}

# The names of a busybox. One that does not run here has those of this machine's, being of the same release.
applets() {
    if foreign; then busybox --list; else "$1" --list; fi
}
