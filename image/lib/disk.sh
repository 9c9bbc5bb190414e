# The disk: partition table, boot partition for BIOS and UEFI, root, state; no loop device, no mount.

# Sizes in MiB. The roots and the boot partition have room for a second, larger version.
BOOT_SIZE=64
ROOT_SIZE=128
STATE_SIZE=512

ESP=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
ROOT=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
DATA=0FC63DAF-8483-4772-8E79-3D69D8477DE4

# The kernel command line, for either firmware.
COMMAND_LINE="console=tty0 console=ttyS0,115200 quiet net.ifnames=0 biosdevname=0 panic=1"

# Makes the EFI program that holds kernel, RAM disk and command line. The sections are placed
# behind the stub's own ones, each on a page.
build_uki() {
    local out=$1 kernel=$2 initrd=$3 stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub work=$CACHE/uki
    local at section file words=()
    mkdir -p "$work"
    printf '%s' "$COMMAND_LINE" > "$work/cmdline"
    at=$(objdump -h "$stub" | while read -r n _ size vma _; do
        if [[ $n =~ ^[0-9]+$ ]]; then echo $((0x$vma + 0x$size)); fi
    done | sort -n | tail -1)
    while read -r section file; do
        at=$(((at + 0xfff) & ~0xfff))
        words+=(--add-section "$section=$file" --change-section-vma "$section=$(printf '0x%x' "$at")")
        at=$((at + $(stat -c %s "$file")))
    done <<EOF
.osrel rootfs/etc/os-release
.cmdline $work/cmdline
.linux $kernel
.initrd $initrd
EOF
    objcopy "${words[@]}" "$stub" "$out"
}

# Makes the boot partition: syslinux for BIOS, the EFI program for UEFI.
build_boot() {
    local out=$1 kernel=$2 initrd=$3 uki=$CACHE/trivium.efi conf=$CACHE/syslinux.cfg
    build_uki "$uki" "$kernel" "$initrd"
    cat > "$conf" <<EOF
SERIAL 0 115200
DEFAULT trivium
PROMPT 0
TIMEOUT 1
LABEL trivium
 LINUX /vmlinuz
 INITRD /initrd
 APPEND $COMMAND_LINE
EOF
    rm -f "$out"
    truncate -s "${BOOT_SIZE}M" "$out"
    mkfs.vfat -F 32 -h 2048 -n BOOT -i 54524956 "$out" > /dev/null
    mmd -i "$out" ::/EFI ::/EFI/BOOT
    mcopy -i "$out" "$uki" ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$out" "$kernel" ::/vmlinuz
    mcopy -i "$out" "$initrd" ::/initrd
    mcopy -i "$out" "$conf" ::/syslinux.cfg
    syslinux --install "$out"
}

# Puts a file at an offset of the disk, holes left out.
place() { dd if="$2" of="$1" bs=1M seek="$3" conv=notrunc,sparse status=none; }

# Makes the disk from the parts in the output folder.
build_disk() {
    local out=$1 kernel=$2 initrd=$3 root=$4 raw=$CACHE/disk.raw boot=$CACHE/boot.fat
    [ "$(stat -c %s "$root")" -le $((ROOT_SIZE << 20)) ] || die "the root is larger than its partition of $ROOT_SIZE MiB"
    build_boot "$boot" "$kernel" "$initrd"
    rm -f "$raw"
    truncate -s $((1 + BOOT_SIZE + 2 * ROOT_SIZE + STATE_SIZE + 1))M "$raw"
    sfdisk --quiet "$raw" <<EOF
label: gpt
start=1MiB, size=${BOOT_SIZE}MiB, type=$ESP, name=boot, attrs=LegacyBIOSBootable
size=${ROOT_SIZE}MiB, type=$ROOT, name=root-a
size=${ROOT_SIZE}MiB, type=$ROOT, name=root-b
size=${STATE_SIZE}MiB, type=$DATA, name=state
EOF
    dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$raw" bs=440 count=1 conv=notrunc status=none
    place "$raw" "$boot" 1
    place "$raw" "$root" $((1 + BOOT_SIZE))
    qemu-img convert -O qcow2 -c "$raw" "$out.part"
    mv "$out.part" "$out"
    say "disk: $(du -k "$out" | cut -f1) KiB on disk, $((1 + BOOT_SIZE + 2 * ROOT_SIZE + STATE_SIZE + 1)) MiB virtual"
    rm -f "$raw"
}
