# The disk in the formats of other hypervisors. The same disk gives the same bytes: what qemu-img draws by lot or takes
# from the clock is put to fixed values afterwards.
#
#   raw   trivium.raw            anything that reads disks
#   vmdk  trivium.vmdk           VMware, stream optimised, as it lies in the OVA
#   ova   trivium.ova            VMware
#   vhd   trivium.vhd            XenServer, XCP-ng, Hyper-V; dynamic
#   bundle  trivium.bundle       the root alone, signed, for VMs that run another one

# Overwrites bytes of a file at an offset with those that printf makes of a text.
overwrite() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# The stream optimised VMDK of a raw disk; its content ID is fixed.
make_vmdk() {
    local raw=$1 out=$2 at
    qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$raw" "$out.part"
    at=$(LC_ALL=C grep -abom1 '^CID=' "$out.part" | head -n 1 | cut -d: -f1)
    [ -n "$at" ] || die "the VMDK has no content ID"
    overwrite "$out.part" "$at" 'CID=74726976'
    mv "$out.part" "$out"
}

# Gives the VHD footer at an offset the fixed time 0 and ID, and the checksum that this makes.
settle_footer() {
    local file=$1 at=$2 sum
    overwrite "$file" $((at + 24)) '\0\0\0\0'
    overwrite "$file" $((at + 64)) '\0\0\0\0trivium-image-01'
    sum=$(dd if="$file" bs=512 count=1 skip="$at" iflag=skip_bytes status=none | od -An -v -tu1 | awk '{ for (i = 1; i <= NF; i++) n += $i } END { printf "%08x", 4294967295 - n }')
    overwrite "$file" $((at + 64)) "$(sed 's/../\\x&/g' <<< "$sum")"
}

# The dynamic VHD of a raw disk, exactly as large.
make_vhd() {
    local raw=$1 out=$2
    qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on "$raw" "$out.part"
    settle_footer "$out.part" 0
    settle_footer "$out.part" $(($(stat -c %s "$out.part") - 512))
    mv "$out.part" "$out"
}

# The descriptor of the OVA: a 64-bit Debian with one SCSI disk. CloudStack takes processors, memory and NICs from its
# offering.
descriptor() {
    local disk=$1 capacity=$2
    cat <<EOF
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="trivium-disk0.vmdk" ovf:id="file1" ovf:size="$(stat -c %s "$disk")"/>
  </References>
  <DiskSection>
    <Info>The disk</Info>
    <Disk ovf:capacity="$capacity" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id="trivium">
    <Info>System VM</Info>
    <Name>trivium</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian10_64Guest">
      <Info>The guest operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>trivium</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-11</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:ElementName>1 virtual CPU</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>1</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>512 MB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>512</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:ElementName>SCSI controller</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Disk</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
EOF
}

# The OVA of a VMDK: descriptor first, as readers of streams want it, then the sums, then the disk.
make_ova() {
    local vmdk=$1 capacity=$2 out=$3 folder=$CACHE/ova
    rm -rf "$folder"
    mkdir -p "$folder"
    ln "$vmdk" "$folder/trivium-disk0.vmdk"
    descriptor "$vmdk" "$capacity" > "$folder/trivium.ovf"
    (cd "$folder" && for file in trivium.ovf trivium-disk0.vmdk; do
        printf 'SHA256(%s)= %s\n' "$file" "$(sha256sum < "$file" | cut -d' ' -f1)"
    done > trivium.mf)
    tar -C "$folder" --format=ustar --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@0 \
        -cf "$out.part" trivium.ovf trivium.mf trivium-disk0.vmdk
    rm -rf "$folder"
    mv "$out.part" "$out"
}

# Makes the chosen formats of a raw disk in a folder.
make_formats() {
    local raw=$1 dir=$2 format
    for format in "${FORMATS[@]}"; do
        case $format in
        raw) cp --sparse=always "$raw" "$dir/trivium.raw" ;;
        vmdk) make_vmdk "$raw" "$dir/trivium.vmdk" ;;
        ova)
            make_vmdk "$raw" "$CACHE/ova.vmdk"
            make_ova "$CACHE/ova.vmdk" "$(stat -c %s "$raw")" "$dir/trivium.ova"
            rm "$CACHE/ova.vmdk"
            ;;
        vhd) make_vhd "$raw" "$dir/trivium.vhd" ;;
        bundle) cat "$CACHE/slot.head" "$CACHE/slot.content" > "$dir/trivium.bundle" ;;
        esac
        say "$format: $(du -k "$dir/trivium.$format" | cut -f1) KiB"
    done
}
