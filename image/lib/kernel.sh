# The kernel, the modules of the image, and the first-stage RAM disk.

# Unpacks the kernel package once into cache/kernel and sets KERNEL (its folder) and KVER.
unpack_kernel() {
    local name version
    read -r name version < <(locked | awk '$1 == "build" && $2 ~ /^linux-image/ { print $2, $3 }')
    KVER=${name#linux-image-}
    KERNEL=$CACHE/kernel-$KVER-$version
    [ ! -d "$KERNEL" ] || return 0
    say "unpacking kernel $KVER"
    rm -rf "$CACHE"/kernel-*
    dpkg-deb -x "$(deb "$name" "$version")" "$KERNEL.part"
    depmod -b "$KERNEL.part" "$KVER"
    if [ "$ARCH" = arm64 ]; then
        cp "$KERNEL.part/boot/vmlinuz-$KVER" "$KERNEL.part/vmlinux"
        mv "$KERNEL.part" "$KERNEL"
        return
    fi
    # The kernel image is an xz stream behind its loader; QEMU starts the plain ELF file faster.
    local bz=$KERNEL.part/boot/vmlinuz-$KVER at
    at=$(LC_ALL=C grep -abom1 $'\xfd7zXZ' "$bz" | head -1 | cut -d: -f1)
    [ -n "$at" ] || die "no xz stream in the kernel image"
    tail -c "+$((at + 1))" "$bz" | xz -dc > "$KERNEL.part/vmlinux" 2>/dev/null || true
    [ -s "$KERNEL.part/vmlinux" ] || die "cannot unpack the kernel image"
    mv "$KERNEL.part" "$KERNEL"
}

# Of names of modules those that the kernel of another architecture has too, or has built in.
having() {
    local name known lacking=()
    known=$(sed 's/:.*//' "$KERNEL/lib/modules/$KVER"/modules.{dep,builtin})
    for name in "$@"; do
        if grep -q "/${name//[-_]/[-_]}\.ko$" <<< "$known"; then
            echo "$name"
        else
            lacking+=("$name")
        fi
    done
    [ ${#lacking[@]} = 0 ] || say "kernel $KVER has not: ${lacking[*]}" >&2
}

# Copies the modules that a list file names, with all they depend on, below a root.
copy_modules() {
    local list=$1 root=$2 src=$KERNEL/lib/modules/$KVER dst=$2/lib/modules/$KVER word names found
    names=$(words "$list" | while read -r word; do
        case $word in
        */) sed -n "s#^kernel/$word.*/\([^/]*\)\.ko:.*#\1#p; s#^kernel/$word\([^/]*\)\.ko:.*#\1#p" "$src/modules.dep" ;;
        *) echo "$word" ;;
        esac
    done | sort -u)
    mkdir -p "$dst" "$CACHE/none"
    [ "$ARCH" = amd64 ] || names=$(having $names)
    found=$(modprobe -C "$CACHE/none" -d "$KERNEL" -S "$KVER" -a -D $names) || die "$list: a module is missing in kernel $KVER"
    awk '$1 == "insmod" { print $2 }' <<< "$found" | sort -u | sed "s#^$src/##" |
        tar -C "$src" -cf - --files-from=- | tar -C "$dst" -xf -
    cp "$src"/modules.{order,builtin,builtin.modinfo} "$dst/"
    depmod -b "$root" "$KVER"
}

# Puts dmsetup, which checks the root by its hash tree, and the libraries it needs into the RAM disk.
copy_dmsetup() {
    local tree=$1 all=$CACHE/initrd-parts name library
    rm -rf "$all"
    for name in dmsetup libc6 libdevmapper1.02.1 libselinux1 libudev1 libpcre2-8-0; do
        dpkg-deb -x "$(deb "$name" "$(locked | awk -v name="$name" '$2 == name { print $3; exit }')")" "$all"
    done
    mkdir -p "$tree/usr/lib/$MULTIARCH" "$tree/usr/lib64" "$tree$(dirname "$LOADER")"
    ln -s usr/lib64 "$tree/lib64"
    cp "$all/sbin/dmsetup" "$tree/bin/"
    cp -L "$(find "$all" -name "${LOADER##*/}" ! -type d ! -xtype l | head -n 1)" "$tree$LOADER"
    for name in libc.so.6 libm.so.6 libdevmapper.so.1.02.1 libselinux.so.1 libudev.so.1 libpcre2-8.so.0; do
        library=$(find "$all" -name "$name" | head -n 1)
        [ -n "$library" ] || die "no $name for the RAM disk"
        cp -L "$library" "$tree/usr/lib/$MULTIARCH/$name"
    done
    rm -rf "$all"
    foreign || chroot "$tree" /bin/dmsetup --version > /dev/null 2>&1 || chroot "$tree" "$LOADER" --list /bin/dmsetup > /dev/null ||
        die "dmsetup lacks a library in the RAM disk"
}

# Makes the RAM disk: busybox, dmsetup, the storage drivers, initrd/init.
build_initrd() {
    local out=$1 tree=$CACHE/initrd key
    key=$(key_of initrd modules.initrd lib/kernel.sh lib/arch.sh "${LOCK##*/}")
    if [ "$(cat "$CACHE/initrd.key" 2>/dev/null)" != "$key" ]; then
        rm -rf "$tree" "$CACHE/busybox"
        mkdir -p "$tree"/{bin,dev,proc,sys,new,ro,rw} "$tree/usr/lib"
        ln -s bin "$tree/sbin"
        ln -s usr/lib "$tree/lib"
        dpkg-deb -x "$(deb busybox-static "$(locked | awk '$2 == "busybox-static" { print $3 }')")" "$CACHE/busybox"
        cp "$CACHE/busybox/bin/busybox" "$tree/bin/"
        applets "$tree/bin/busybox" | grep -vx busybox | xargs -I{} ln -s busybox "$tree/bin/{}"
        copy_dmsetup "$tree"
        install -m 755 initrd/init "$tree/init"
        copy_modules modules.initrd "$tree"
        find "$tree" -exec touch -hd @0 {} +
        (cd "$tree" && find . | LC_ALL=C sort | cpio --quiet --reproducible --owner=0:0 -o -H newc) | zstd -q -19 -f -o "$CACHE/initrd.zst"
        echo "$key" > "$CACHE/initrd.key"
        say "RAM disk: $(du -k "$CACHE/initrd.zst" | cut -f1) KiB"
    fi
    cp "$CACHE/initrd.zst" "$out"
}
