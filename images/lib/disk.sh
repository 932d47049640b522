# shellcheck shell=bash
# A folder becomes a disk: GPT with one ext4 partition, assembled as plain files. No loop device, no
# mount, and every identifier and time given, so that the same folder makes the same bytes.
#
#   0        GPT header and table
#   1 MiB    partition 1, ext4, the root file system
#   -17 KiB  backup GPT

readonly PARTITION_OFFSET=$((1 << 20))
readonly GPT_BACKUP=$((1 << 20)) # more than its 33 sectors: the partition ends on a whole MiB
readonly TYPE_LINUX_ROOT_X86_64=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709

# derive_uuid KEY ROLE: an identifier that depends on these two only, in the form of a UUID version 8
# (RFC 9562, section 5.8).
derive_uuid() {
    local hash
    hash=$(printf '%s %s' "$1" "$2" | sha256sum)
    echo "${hash:0:8}-${hash:8:4}-8${hash:13:3}-a${hash:17:3}-${hash:20:12}"
}

# make_disk TREE FILE SIZE KEY LABEL: TREE (owners, modes, links, attributes) as the root partition of a
# sparse raw disk of SIZE bytes.
make_disk() {
    local tree=$1 file=$2 size=$3 key=$4 label=$5
    local options=offset=$PARTITION_OFFSET,nodiscard,assume_storage_prezeroed=1,root_owner=0:0
    options+=,hash_seed=$(derive_uuid "$key" hash)
    local blocks=$(((size - PARTITION_OFFSET - GPT_BACKUP) / 4096))

    rm -f "$file"
    truncate -s "$size" "$file"
    # The file is one hole, so inode tables and journal count as zeroed without being written.
    MKE2FS_CONFIG=$IMAGES/lib/mke2fs.conf E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 \
        -L "$label" -U "$(derive_uuid "$key" root)" -d "$tree" \
        -E "$options" \
        "$file" "$blocks"
    fix_times "$file"
    sfdisk --quiet --wipe never "$file" <<END
label: gpt
label-id: $(derive_uuid "$key" disk)
first-lba: 34
start=$((PARTITION_OFFSET / 512)), size=$((blocks * 8)), type=$TYPE_LINUX_ROOT_X86_64, uuid=$(derive_uuid "$key" partition), name=root
END
}

# fix_times FILE: change and access times of every inode. mke2fs takes them from the folder's own inodes,
# where nobody can set the first and every look moves the second.
fix_times() {
    local disk="$1?offset=$PARTITION_OFFSET"
    # In each group the inodes in use are the first; `stats` tells how many at the end are not.
    debugfs -R stats "$disk" 2>/dev/null |
        awk -v epoch="$SOURCE_DATE_EPOCH" '
            /^Inodes per group:/ { per_group = $NF }
            $1 == "Group" { group = $2 + 0 }
            /unused inodes/ {
                for (n = 1; n <= per_group - $(NF - 2); n++) {
                    inode = group * per_group + n
                    if (inode == 2 || inode > 10) {
                        print "set_inode_field <" inode "> ctime @" epoch
                        print "set_inode_field <" inode "> atime @" epoch
                    }
                }
            }' |
        E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f - "$disk" 2>&1 |
        sed '/^debugfs/d' >&2
}

# clamp_times TREE: nothing in it is newer than its newest package.
clamp_times() {
    find "$1" -newermt "@$SOURCE_DATE_EPOCH" -print0 |
        xargs -0 --no-run-if-empty touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
}
