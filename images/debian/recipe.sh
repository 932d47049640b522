# shellcheck shell=bash disable=SC2034
# Debian 12 as a vendor would ship it for a cloud: stock packages in their stock configuration, cloud-init
# in charge of the first boot, nothing of nimbo's. It stands for every image that people bring along.

PROGRAMS=(
    # the system
    dbus init iproute2 iputils-ping kmod less libpam-systemd netbase procps systemd-resolved
    systemd-sysv systemd-timesyncd sudo udev usr-is-merged
    # the kernel; grub2-common regenerates /boot/grub/grub.cfg whenever one is installed or removed
    grub2-common initramfs-tools linux-image-cloud-amd64 zstd
    # the cloud; with no ifupdown or netplan.io about, cloud-init configures systemd-networkd
    cloud-guest-utils cloud-init
    # the services
    ca-certificates curl nfs-common nginx openssh-server
)
# What mmdebstrap calls minbase, below them.
PACKAGES=('?essential' '?priority(required)' apt "${PROGRAMS[@]}")
DISK_SIZE=$((2 << 30))

root_tree() {
    stage "install the system" install_system "$1"
    stage "configure the system" configure_system "$1"
    stage "write grub.cfg" write_grub_configuration "$1"
    stage "remove what belongs to one machine" remove_traces "$1"
}

# Everything comes from the local repository: the build needs no network, and the image does not learn
# where its packages came from.
install_system() {
    local root=$1 include
    include=$(printf '%s,' "${PROGRAMS[@]}")
    # fstab and the kernel's command line are in place before the packages whose scripts read them.
    mmdebstrap --mode=root --variant=minbase --include="${include%,}" \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --essential-hook="cp -r --preserve=mode '$IMAGES/debian/files/.' \"\$1\"" \
        --essential-hook="echo 'UUID=$(derive_uuid "$KEY" root) / ext4 defaults,discard,errors=remount-ro 0 1' >\"\$1/etc/fstab\"" \
        "" "$root" "deb [trusted=yes] copy:$WORK/repository ./"
}

configure_system() {
    local root=$1
    rm -f "$root/etc/apt/sources.list.d/"*
    public_sources >"$root/etc/apt/sources.list"
    echo debian >"$root/etc/hostname"
    ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    # Without a locale cloud-init would compile en_US at first boot.
    chroot "$root" update-locale LANG=C.UTF-8
    chroot "$root" systemctl enable systemd-networkd.service
}

# update-grub as the guest itself will run it at its next kernel upgrade. It asks grub-probe what the root
# file system lies on, which only a mounted disk could answer; a stand-in answers for the disk that
# `make_disk` will lay out.
write_grub_configuration() {
    local root=$1 uuid probe=$1/usr/sbin/grub-probe by_uuid=$1/dev/disk/by-uuid
    uuid=$(derive_uuid "$KEY" root)
    mv "$probe" "$probe.real"
    sed "s/@UUID@/$uuid/; s/@PARTUUID@/$(derive_uuid "$KEY" partition)/" "$IMAGES/debian/grub-probe" >"$probe"
    chmod 755 "$probe"
    mkdir -p "$by_uuid" "$root/boot/grub"
    touch "$by_uuid/$uuid"
    chroot "$root" update-grub
    rm -r "$root/dev/disk"
    mv "$probe.real" "$probe"
}

# Identity and randomness are made at first boot; logs and caches are not part of a system.
remove_traces() {
    local root=$1
    : >"$root/etc/machine-id"
    rm -f "$root"/etc/ssh/ssh_host_*_key* "$root/var/lib/dbus/machine-id" \
        "$root"/var/lib/systemd/{random-seed,credential.secret} \
        "$root"/etc/{passwd,group,shadow,gshadow,subuid,subgid}- "$root/etc/.pwd.lock" \
        "$root/etc/.resolv.conf.systemd-resolved.bak" "$root/var/cache/ldconfig/aux-cache" "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
    find "$root/var/log" -type f -delete
    find "$root"/{tmp,run,var/tmp} -mindepth 1 -delete
}
