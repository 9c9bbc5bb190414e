# The bill of materials: what the image is made of, under which licences, and where its source is.
#
# Copyright files of Debian lie where Debian has them (/usr/share/doc/PACKAGE/copyright, with the texts
# they point to in /usr/share/common-licenses); of the rest /opt/trivium/bill tells:
#   sbom.spdx.json  every package, crate and the console's VNC client (SPDX 2.3), also beside the image
#   licences.txt    the texts that crates and client come with, each text once
#   sources.txt     name, version, and how the source is fetched

# The tar stream of a locked package.
package_files() { dpkg-deb --fsys-tarfile "$(deb "$1" "$2")"; }

# Puts the copyright files of all locked packages that anything stays of below a tree.
copy_copyrights() {
    local tree=$1 set name version path
    locked | grep -v '^debug ' | while read -r set name version _; do
        # Packages of one source may share a folder by a link, which leads to a package that is here too.
        package_files "$name" "$version" | tar -C "$tree" --keep-directory-symlink --wildcards -xf - \
            "./usr/share/doc/$name" --exclude='*/changelog*' --exclude='*/NEWS*' --exclude='*/README*' \
            --exclude='*/examples*' 2>/dev/null || true
    done
    for path in "$tree"/usr/share/doc/*; do
        [ -L "$path" ] || find "$path" -mindepth 1 ! -name copyright -delete
    done
    package_files base-files "$(locked | awk '$2 == "base-files" { print $3 }')" |
        tar -C "$tree" -xf - ./usr/share/common-licenses
}

# Ends the build where a package's copyright file, or a text that one points to, is not in the tree.
check_copyrights() {
    local tree=$1 lacking
    lacking=$(locked | grep -v '^debug ' | while read -r _ name _; do
        [ "$name" = base-files ] || [ -s "$tree/usr/share/doc/$name/copyright" ] || echo "$name"
    done)
    [ -z "$lacking" ] || die "no copyright file of: $(tr '\n' ' ' <<< "$lacking")"
}

# Prints `name version licence` of every crate that is linked into the image's programs, by tabs.
crates() {
    (cd "$REPO" && cargo tree --locked --no-dedupe -p router -p ssvm -p cpvm -p common -e normal \
        --target x86_64-unknown-linux-gnu --prefix none -f '{p}|{l}') |
        sed -n 's/^\([^ ]*\) v\([^ ]*\)\( (proc-macro)\)\?|\(.*\)/\1\t\2\t\4/p' | LC_ALL=C sort -u
}

# Prints `name version` and the SHA-256 that Cargo.lock has of every crate from the registry, by tabs.
crate_sums() {
    awk -F'"' '/^name = /{ n = $2 } /^version = /{ v = $2 } /^checksum = /{ print n "\t" v "\t" $2 }' "$REPO/Cargo.lock"
}

# Prints `name version folder` of every crate's source, wherever cargo has it, by tabs.
crate_folders() {
    (cd "$REPO" && cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu) |
        jq -r '.packages[] | [.name, .version, (.manifest_path | rtrimstr("/Cargo.toml"))] | @tsv'
}

# Prints the texts of all crates and of the VNC client, each text once, under the names that come with it.
licences() {
    local name version folder file sum
    local -A names=() files=() folders=()
    while IFS=$'\t' read -r name version folder; do folders[$name $version]=$folder; done < <(crate_folders)
    while IFS=$'\t' read -r name version; do
        folder=${folders[$name $version]:-}
        [ -d "$folder" ] || die "cargo does not say where the source of crate $name $version is"
        for file in "$folder"/{LICEN[CS]E,COPYING,NOTICE,UNLICENSE,Licen[cs]e,licen[cs]e}*; do
            [ -f "$file" ] || continue
            sum=$(sha256sum < "$file")
            names[$sum]+="$name $version; " files[$sum]=$file
        done
    done < <(awk -F'\t' -v OFS='\t' '$1 == "cargo" { print $2, $3 }' <<< "$PARTS")
    for file in "$REPO"/cpvm/page/vendor/novnc-*/{LICENSE.txt,docs/LICENSE.MPL-2.0,vendor/pako/LICENSE}; do
        [ -f "$file" ] || die "no $file"
        sum=$(sha256sum < "$file")
        names[$sum]+="noVNC; " files[$sum]=$file
    done
    for sum in "${!files[@]}"; do printf '%s\t%s\n' "${names[$sum]%; }" "${files[$sum]}"; done | LC_ALL=C sort |
        while IFS=$'\t' read -r name file; do
            printf '==== %s\n\n' "$name"
            cat "$file"
            printf '\n\n'
        done
}

# Prints `kind name version licence sum` of all parts, by tabs; kind is deb, cargo or npm.
parts() {
    local client=$REPO/cpvm/page/novnc.lock
    locked | grep -v '^debug ' | awk -v OFS='\t' '$2 != "base-files" { print "deb", $2, $3, "", $4 }'
    LC_ALL=C join -t $'\t' -a 1 -e '' -o '1.1,1.2,2.2' \
        <(crates | awk -F'\t' -v OFS='\t' '$3 != "" { print $1 "@" $2, $3 }' | LC_ALL=C sort) \
        <(crate_sums | awk -F'\t' -v OFS='\t' '{ print $1 "@" $2, $3 }' | LC_ALL=C sort) |
        awk -F'\t' -v OFS='\t' '{ split($1, part, "@"); print "cargo", part[1], part[2], $2, $3 }'
    awk -F= -v OFS='\t' '{ of[$1] = $2 } END { print "npm", of["package"], of["version"], of["licence"], "" }' "$client"
}

# Prints how the source of each part in PARTS is fetched.
sources() {
    local kind name version source
    echo "# Parts of the image, and what fetches their source:"
    echo "#   deb    apt-get source SOURCE=VERSION (Debian 12), or snapshot.debian.org where the archive has it no more"
    echo "#   cargo  the crate of that name and version in the Rust registry"
    echo "#   npm    the package of that name and version in the npm registry"
    while IFS=$'\t' read -r kind name version _; do
        source=$name
        if [ "$kind" = deb ]; then
            source=$(dpkg-deb -f "$(deb "$name" "$version")" Source)
            # `name (version)` where source and package differ in it.
            case $source in
            *\(*) source="${source%% *}=$(sed 's/.*(\(.*\)).*/\1/' <<< "$source")" ;;
            *) source="${source:-$name}=$(sed 's/+b[0-9]*$//' <<< "$version")" ;;
            esac
        fi
        echo "$kind $name $version $source"
    done <<< "$PARTS"
}

# Prints the bill of PARTS as SPDX 2.3. Its date is that of the commit that changed a lock last, so that the same
# locks have the same bill.
spdx() {
    local date
    date=$(TZ=UTC git -C "$REPO" log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ -- Cargo.lock \
        cpvm/page/novnc.lock image/packages.lock 2>/dev/null || true)
    printf '%s\n' "$PARTS" | jq -R -n --arg date "${date:-1970-01-01T00:00:00Z}" --arg sum "$(sha256sum <<< "$PARTS" | cut -c1-32)" '
        def id: gsub("[^A-Za-z0-9.]"; "-");
        def purl: if .kind == "deb" then "pkg:deb/debian/\(.name)@\(.version | @uri)?arch=amd64"
            elif .kind == "cargo" then "pkg:cargo/\(.name)@\(.version | @uri)"
            else "pkg:npm/\(.name | @uri)@\(.version)" end;
        [inputs | split("\t") | {kind: .[0], name: .[1], version: .[2], licence: .[3], sum: .[4]}] as $parts
        | {spdxVersion: "SPDX-2.3", dataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", name: "trivium-image",
           documentNamespace: "https://trivium.invalid/spdx/\($sum)",
           creationInfo: {created: $date, creators: ["Tool: image/build"]},
           documentDescribes: ["SPDXRef-image"],
           packages: ([{SPDXID: "SPDXRef-image", name: "trivium", versionInfo: "0", downloadLocation: "NOASSERTION",
                        filesAnalyzed: false, licenseConcluded: "NOASSERTION", licenseDeclared: "Apache-2.0",
                        copyrightText: "NOASSERTION"}]
             + [$parts[] | {SPDXID: "SPDXRef-\(.kind)-\(.name | id)-\(.version | id)", name, versionInfo: .version,
                downloadLocation: "NOASSERTION", filesAnalyzed: false, licenseConcluded: "NOASSERTION",
                licenseDeclared: (if .licence == "" then "NOASSERTION" else .licence | gsub(" */ *"; " OR ") | gsub("MPL-2.0\\+"; "MPL-2.0") end),
                copyrightText: "NOASSERTION",
                externalRefs: [{referenceCategory: "PACKAGE-MANAGER", referenceType: "purl", referenceLocator: purl}]}
                + (if .sum == "" then {} else {checksums: [{algorithm: "SHA256", checksumValue: .sum}]} end)]),
           relationships: [$parts[] | {spdxElementId: "SPDXRef-image", relationshipType: "CONTAINS",
                relatedSpdxElement: "SPDXRef-\(.kind)-\(.name | id)-\(.version | id)"}]}'
}

# Writes the bill into a folder; made anew only where a lock changed.
write_bill() {
    local out=$1 key
    key=$(cd "$REPO" && key_of Cargo.lock cpvm/page/novnc.lock image/packages.lock image/packages.trim image/lib/bill.sh)
    if [ "$(cat "$CACHE/bill/key" 2>/dev/null)" != "$key" ]; then
        say "the bill of materials"
        rm -rf "$CACHE/bill"
        mkdir -p "$CACHE/bill/parts"
        PARTS=$(parts)
        spdx > "$CACHE/bill/parts/sbom.spdx.json"
        licences > "$CACHE/bill/parts/licences.txt"
        sources > "$CACHE/bill/parts/sources.txt"
        echo "$key" > "$CACHE/bill/key"
    fi
    mkdir -p "$out"
    cp "$CACHE"/bill/parts/* "$out/"
}
