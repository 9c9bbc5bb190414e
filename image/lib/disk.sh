# The disk: partition table, boot partition for BIOS and UEFI, root, state; no loop device, no mount.

# Sizes in MiB. The roots and the boot partition have room for a second, larger version.
BOOT_SIZE=64
ROOT_SIZE=128
STATE_SIZE=512

ESP=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
ROOT=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
DATA=0FC63DAF-8483-4772-8E79-3D69D8477DE4

# The identities of disk and partitions, the same in every build.
disk_id() { echo "74726976-6975-4D00-8000-00000000000$1"; }

# The kernel command line, for either firmware.
COMMAND_LINE="console=tty0 console=ttyS0,115200 quiet net.ifnames=0 biosdevname=0 panic=1"

# Makes the boot partition: syslinux for BIOS, systemd-boot for UEFI, one kernel for both. All its files are of 1980.
build_boot() {
    local out=$1 kernel=$2 initrd=$3 conf=$CACHE/boot
    local -x SOURCE_DATE_EPOCH=315532800
    mkdir -p "$conf"
    cat > "$conf/syslinux.cfg" <<EOF
SERIAL 0 115200
DEFAULT trivium
PROMPT 0
TIMEOUT 1
LABEL trivium
 LINUX /vmlinuz
 INITRD /initrd
 APPEND $COMMAND_LINE
EOF
    printf 'timeout 0\neditor no\n' > "$conf/loader.conf"
    printf 'title Trivium\nlinux /vmlinuz\ninitrd /initrd\noptions %s\n' "$COMMAND_LINE" > "$conf/trivium.conf"
    rm -f "$out"
    truncate -s "${BOOT_SIZE}M" "$out"
    mkfs.vfat --invariant -F 32 -h 2048 -n BOOT -i 54524956 "$out" > /dev/null
    mmd -i "$out" ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
    mcopy -i "$out" /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$out" "$conf/loader.conf" ::/loader/
    mcopy -i "$out" "$conf/trivium.conf" ::/loader/entries/
    mcopy -i "$out" "$kernel" ::/vmlinuz
    mcopy -i "$out" "$initrd" ::/initrd
    mcopy -i "$out" "$conf/syslinux.cfg" ::/syslinux.cfg
    syslinux --install "$out"
}

# Puts a file at an offset of the disk, holes left out.
place() { dd if="$2" of="$1" bs=1M seek="$3" conv=notrunc,sparse status=none; }

# Makes the disk from the parts in the output folder.
build_disk() {
    local out=$1 kernel=$2 initrd=$3 root=$4 raw=$CACHE/disk.raw boot=$CACHE/boot.fat
    build_slot "$root" "$CACHE/slot"
    build_boot "$boot" "$kernel" "$initrd"
    rm -f "$raw"
    truncate -s $((1 + BOOT_SIZE + 2 * ROOT_SIZE + STATE_SIZE + 1))M "$raw"
    sfdisk --quiet "$raw" <<EOF
label: gpt
label-id: $(disk_id 0)
start=1MiB, size=${BOOT_SIZE}MiB, uuid=$(disk_id 1), type=$ESP, name=boot, attrs=LegacyBIOSBootable
size=${ROOT_SIZE}MiB, uuid=$(disk_id 2), type=$ROOT, name=root-a
size=${ROOT_SIZE}MiB, uuid=$(disk_id 3), type=$ROOT, name=root-b
size=${STATE_SIZE}MiB, uuid=$(disk_id 4), type=$DATA, name=state
EOF
    dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$raw" bs=440 count=1 conv=notrunc status=none
    place "$raw" "$boot" 1
    place "$raw" "$CACHE/slot.raw" $((1 + BOOT_SIZE))
    qemu-img convert -O qcow2 -c "$raw" "$out.part"
    mv "$out.part" "$out"
    say "disk: $(du -k "$out" | cut -f1) KiB on disk, $((1 + BOOT_SIZE + 2 * ROOT_SIZE + STATE_SIZE + 1)) MiB virtual"
    make_formats "$raw" "$(dirname "$out")"
    rm -f "$raw" "$CACHE/slot.raw" "$CACHE/slot.head" "$CACHE/slot.content"
}
