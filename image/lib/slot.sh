# A slot: the root file system, its hash tree (dm-verity), and in the last block a signed header of lines (see
# common/src/roots). A bundle is the header first, then the rest.

# Makes the key that bundles are signed with, where there is none.
need_key() {
    [ ! -s "$KEY" ] || return 0
    say "a new key for bundles: $KEY; keep it, VMs of this image take no others"
    mkdir -p "$(dirname "$KEY")"
    (umask 077 && openssl genpkey -algorithm ed25519 -out "$KEY")
}

# Prints the public half as hex: the last 32 bytes of its DER form.
public_key() {
    openssl pkey -in "$KEY" -pubout -outform DER | tail -c 32 | od -An -v -tx1 | tr -d ' \n'
    echo
}

# Makes NAME.content (file system and tree), NAME.head (the header's block), NAME.raw (the slot) of a root; with
# another salt (64 hex digits) the same files are another root.
build_slot() {
    local root=$1 name=$2 salt=${3:-$(printf '%064d' 0)} data tree hash text=$2.text
    data=$(stat -c %s "$root")
    hash=$(veritysetup format --no-superblock --hash=sha256 --data-block-size=4096 --hash-block-size=4096 \
        --salt="$salt" "$root" "$name.tree" | awk '/^Root hash:/ { print $3 }')
    [ ${#hash} = 64 ] || die "veritysetup gives no root hash"
    tree=$(stat -c %s "$name.tree")
    [ $((data % 4096 + tree % 4096)) = 0 ] || die "the root is no number of whole blocks"
    [ $((data + tree + 4096)) -le $((ROOT_SIZE << 20)) ] || die "the root is larger than its slot of $ROOT_SIZE MiB"
    cat "$root" "$name.tree" > "$name.content"
    {
        echo "trivium-root 1"
        echo "version=$(awk '{ print $3; exit }' "$IMAGE/rootfs/etc/cloudstack-release")-${hash:0:12}"
        echo "kernel=$KVER"
        echo "data=$data"
        echo "tree=$tree"
        echo "root=$hash"
        echo "salt=$salt"
        echo "sum=$(sha256sum < "$name.content" | cut -d' ' -f1)"
    } > "$text"
    openssl pkeyutl -sign -rawin -inkey "$KEY" -in "$text" -out "$name.sig"
    echo "signature=$(od -An -v -tx1 "$name.sig" | tr -d ' \n')" >> "$text"
    truncate -s 4096 "$text"
    mv "$text" "$name.head"
    rm -f "$name.raw" "$name.tree" "$name.sig"
    truncate -s "${ROOT_SIZE}M" "$name.raw"
    dd if="$name.content" of="$name.raw" bs=1M conv=notrunc status=none
    dd if="$name.head" of="$name.raw" bs=4096 seek=$(((ROOT_SIZE << 8) - 1)) conv=notrunc status=none
}
