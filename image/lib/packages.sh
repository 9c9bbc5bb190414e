# Debian packages: which ones (packages.lock), and their files (cache/debs).
#
# A private apt state with nothing installed resolves the whole set, so that the machine that
# builds has no say in it.

SUITE=bookworm
DEBS=$CACHE/debs
LOCK=$IMAGE/packages.lock
[ "${ARCH:=amd64}" = amd64 ] || LOCK=$IMAGE/packages.$ARCH.lock

# The packages that packages.list names for a set.
wanted() {
    sed -e 's/#.*//' -e "s/linux-image-amd64/linux-image-$ARCH/" "$IMAGE/packages.list" |
        awk -v set="$1" '$1 == set { for (i = 2; i <= NF; i++) print $i }'
}

# What the lock was made from.
request() { key_of packages.list packages.trim; }

# Points apt at the private state and reads the archive's indexes, once a run.
open_archive() {
    [ -z "${APT_CONFIG:-}" ] || return 0
    local apt=$CACHE/apt key=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$DEBS"
    : > "$apt/status"
    # The archive is the one that this machine uses.
    apt-get indextargets --format "deb [signed-by=$key] \$(REPO_URI) \$(RELEASE) main" \
        'Created-By: Packages' 'Origin: Debian' | grep -E " $SUITE(-updates|-security)? main" | sort -u > "$apt/sources.list"
    grep -q " $SUITE main" "$apt/sources.list" || die "this machine's apt knows no archive of $SUITE: apt-get update"
    cat > "$apt/apt.conf" <<EOF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "$ARCH";
APT::Architectures "$ARCH";
APT::Install-Recommends "0";
APT::Sandbox::User "root";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Acquire::Retries "3";
EOF
    export APT_CONFIG=$apt/apt.conf
    say "reading the indexes of the archive"
    apt-get -qq update || die "cannot read the package indexes of the archive"
}

# From apt's list of URIs to lines `name version sha256`.
as_lines() {
    awk '/^'\''/ { n = split($2, part, "_"); gsub(/%3a/, ":", part[2]); sub(/^SHA256:/, "", $4); print part[1], part[2], $4 }'
}

# The packages of which packages.trim keeps nothing.
unused() { awk '$2 == "-" { print $1 }' "$IMAGE/packages.trim"; }

# Prints the whole set as the lock has it: set, name, version, SHA-256.
resolve() {
    local root debug kernel
    root=$(apt-get install -y --print-uris $(wanted root) | as_lines)
    debug=$(apt-get install -y --print-uris $(wanted root) $(wanted debug) | as_lines)
    kernel=$(apt-cache depends "linux-image-$ARCH" | awk '/Depends: linux-image-/ { print $2 }')
    [ -n "$root" ] && [ -n "$debug" ] && [ -n "$kernel" ] || die "the archive cannot satisfy packages.list"
    {
        echo "$root" | sed 's/^/root /'
        # None is left where no set asks for more.
        { echo "$debug" | grep -vxF "$root" || true; } | sed 's/^/debug /'
        apt-get download --print-uris $(wanted build | sed "s/^linux-image-$ARCH$/$kernel/") | as_lines | sed 's/^/build /'
    } | awk 'NR == FNR { skip[$1]; next } !($1 != "build" && $2 in skip)' <(unused) - | LC_ALL=C sort
}

# Writes the lock anew and prints what changed.
relock() {
    [ "$LOCKED" = no ] || die "packages.lock $1 (--locked)"
    open_archive
    say "packages.lock $1: resolving anew"
    resolve > "$CACHE/lock.new"
    grep -v '^#' "$LOCK" 2>/dev/null | diff --suppress-common-lines - "$CACHE/lock.new" | grep '^[<>]' || true
    { echo "# set name version sha256; made by image/build from request $(request)"; cat "$CACHE/lock.new"; } > "$LOCK"
    rm "$CACHE/lock.new"
}

# The lines of the lock.
locked() { grep -v '^#' "$LOCK"; }

# The file of a package in the cache, whatever its architecture is called.
deb() { ls "$DEBS/$1_${2//:/%3a}"_*.deb 2>/dev/null; }

# Prints `name=version` of every locked package that the cache has not.
missing() {
    local set name version sum
    locked | while read -r set name version sum; do
        deb "$name" "$version" > /dev/null || echo "$name=$version"
    done
}

# Prints every package whose file is not the locked one.
differing() {
    local set name version sum
    locked | while read -r set name version sum; do
        echo "$sum  $(deb "$name" "$version")"
    done | sha256sum --check --quiet 2>/dev/null | sed 's/: FAILED.*//'
}

# Fetches what the cache lacks; fails where the archive has not those versions any more.
download() {
    local lacking
    lacking=$(missing)
    [ -n "$lacking" ] || return 0
    open_archive
    say "fetching $(wc -w <<< "$lacking") packages"
    (cd "$DEBS" && apt-get -qq download $lacking)
}

# Brings every package of the lock into the cache, verified.
fetch_packages() {
    mkdir -p "$DEBS"
    [ -s "$LOCK" ] || relock "is missing"
    grep -q "request $(request)$" "$LOCK" || relock "was made from another packages.list"
    if ! download; then
        relock "names files that the archive has no more"
        download || die "cannot fetch the packages"
    fi
    local bad
    bad=$(differing)
    if [ -n "$bad" ]; then
        rm -f $bad
        die "removed files that differ from packages.lock, run again: $bad"
    fi
    say "packages: $(locked | wc -l) as in packages.lock"
}
