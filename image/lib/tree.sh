# The root file system: packages, our files, modules; checked; as one squashfs.
#
# It lies in two layers of one file. The base (packages, configuration, modules) is compressed
# once and kept; `/opt` (our binaries and the names they answer to) is appended at every build.

# The paths (globs) that packages.trim keeps of a package; nothing where it has no line.
kept_of() { awk -v name="$1" '$1 == name { for (i = 2; i <= NF; i++) print "./" $i }' packages.trim; }

# Unpacks the packages of a set into a tree whose /bin, /sbin and /lib are links into /usr.
unpack_set() {
    local tree=$2 name version kept
    locked | awk -v set="$1" '$1 == set { print $2, $3 }' | while read -r name version; do
        mapfile -t kept < <(kept_of "$name")
        [ "$1" = root ] || kept=()
        dpkg-deb --fsys-tarfile "$(deb "$name" "$version")" |
            tar -C "$tree" --keep-directory-symlink --wildcards --no-wildcards-match-slash --exclude='./usr/share/doc/*/*' -xf - "${kept[@]}" ||
            die "packages.trim: $name has not all of these files: ${kept[*]}"
    done
}

# Lays out everything but /opt.
lay_out() {
    local tree=$1 path mode owner glob
    rm -rf "$tree"
    mkdir -p "$tree"/usr/{bin,sbin,lib,lib64}
    for path in bin sbin lib lib64; do ln -s "usr/$path" "$tree/$path"; done
    unpack_set root "$tree"
    [ "$DEBUG_SHELL" = no ] || unpack_set debug "$tree"
    rm -rf "$tree/usr/share/doc"
    copy_copyrights "$tree"
    while read -r glob; do
        (cd "$tree" && rm -rf $glob)
    done < <(words prune.list)
    copy_modules modules.txt "$tree"
    cp -r --no-preserve=ownership rootfs/. "$tree/"
    chmod 600 "$tree/etc/shadow"
    [ "$DEBUG_SHELL" = no ] || add_debug_shell "$tree"
    while read -r mode owner path; do
        mkdir -p "$tree/$path" && chmod "$mode" "$tree/$path" && chown "$owner:$owner" "$tree/$path"
    done < <(sed -e 's/#.*//' -e '/^ *$/d' folders.txt)
    cat "$tree"/usr/share/ca-certificates/mozilla/*.crt > "$tree/etc/ssl/certs/ca-certificates.crt"
    # Nobody but root starts any of them.
    find "$tree" -type f -perm /6000 -exec chmod ug-s {} +
    ln -s ../../opt/trivium "$tree/usr/lib/trivium"
    ldconfig -r "$tree"
}

# A shell for the lab on the serial console, all of coreutils, and busybox under its usual names where free.
add_debug_shell() {
    local tree=$1 applet version
    version=$(locked | awk '$2 == "coreutils" { print $3 }')
    dpkg-deb --fsys-tarfile "$(deb coreutils "$version")" |
        tar -C "$tree" --keep-directory-symlink --wildcards -xf - './bin/*' './usr/bin/*'
    cp "$CACHE/initrd/bin/busybox" "$tree/usr/bin/"
    for applet in $("$tree/usr/bin/busybox" --list); do
        [ -e "$tree/usr/bin/$applet" ] || [ -e "$tree/usr/sbin/$applet" ] || ln -s busybox "$tree/usr/bin/$applet"
    done
    cp -r debug/. "$tree/"
}

# Ends the build where an ELF file below a path of the tree lacks a library (busybox is static).
check_libraries() {
    local tree=$1 bad
    bad=$(cd "$tree" && find "${@:2}" -type f ! -name busybox \( -perm /111 -o -name '*.so*' \) | while read -r file; do
        [ "$(head -c4 "$file" | tail -c3)" = ELF ] || continue
        chroot "$tree" "$LOADER" --list "/$file" 2>&1 |
            sed -n -e "s#.*: \(.*\): cannot open shared object.*#/$file lacks \1#p" -e "s#^\s*\(.*\) => not found.*#/$file lacks \1#p"
    done)
    [ -z "$bad" ] || die "missing libraries:
$bad"
}

# Compresses into (or, with an existing file, onto) a squashfs, the same bytes for the same files.
squash() { mksquashfs "$@" -comp zstd -Xcompression-level 15 -all-time 0 -mkfs-time 0 -no-xattrs -quiet -no-progress > /dev/null; }

# Makes the base where its inputs changed; leaves it as cache/base.sq with its tree.
build_base() {
    local tree=$1 key
    key=$DEBUG_SHELL-$(key_of "${LOCK##*/}" packages.trim prune.list modules.txt folders.txt rootfs debug lib/tree.sh lib/bill.sh lib/kernel.sh)
    [ "$(cat "$tree.key" 2>/dev/null)" != "$key" ] || return 0
    say "laying out the root"
    lay_out "$tree"
    if foreign; then
        say "libraries are not checked: no program of $ARCH runs here"
    else
        say "checking libraries"
        check_libraries "$tree" usr
    fi
    check_copyrights "$tree"
    say "compressing $(du -sm "$tree" | cut -f1) MiB"
    rm -f "$tree.sq"
    squash "$tree" "$tree.sq" -e opt
    echo "$key" > "$tree.key"
}

# Puts our binaries and their names below /opt of a tree.
lay_out_opt() {
    local tree=$1 bins=$2 name
    rm -rf "$tree/opt"
    mkdir -p "$tree/opt/trivium" "$tree/opt/cloud/bin"
    for name in router ssvm cpvm shim boot; do
        install -m 755 "$bins/$name" "$tree/opt/trivium/$name"
    done
    write_bill "$tree/opt/trivium/bill"
    public_key > "$tree/opt/trivium/bundle.pub"
    for name in $(words names.txt); do ln -s ../../trivium/shim "$tree/opt/cloud/bin/$name"; done
}

# Makes the whole root.
build_root() {
    local out=$1 bins=$2 tree=$CACHE/tree
    [ "$DEBUG_SHELL" = no ] || tree=$CACHE/tree-debug
    build_base "$tree"
    lay_out_opt "$tree" "$bins"
    check_libraries "$tree" opt
    cp "$tree.sq" "$out.part"
    squash "$tree/opt" "$out.part" -keep-as-directory
    mv "$out.part" "$out"
    say "root: $(du -k "$out" | cut -f1) KiB"
}
