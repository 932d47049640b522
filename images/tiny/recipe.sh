# shellcheck shell=bash disable=SC2034
# A guest that boots in a fraction of Debian's time: Debian's own cloud kernel, busybox, an SSH server, an
# NFS client, and nimbo-init in the place of both systemd and cloud-init.
#
#   /boot/vmlinux-RELEASE        the kernel unpacked, so that no guest has to
#   /boot/initrd.cpio            nimbo-init and the modules that reach the root, not compressed
#   /boot/loader/entries/        the command line, as a Boot Loader Specification entry
#   /                            what follows from the lists below

PACKAGES=(linux-image-cloud-amd64 busybox-static dropbear-bin nfs-common)

# Programs in the root beside busybox; the libraries they need come along.
PROGRAMS=(
    /usr/sbin/dropbear /usr/bin/dropbearkey /usr/bin/dbclient
    /sbin/mount.nfs
)
# Files that they read.
DATA=(/etc/netconfig)

# Modules with all they depend on: in the initrd, what the root file system is behind; in the root, also
# what is loaded there when it is needed.
INITRD_MODULES=(virtio_pci virtio_blk)
ROOT_MODULES=(
    virtio_net virtio_rng virtio_balloon vmw_vsock_virtio_transport evdev button
    nfs nfsv3 nfsv4 loop overlay
)

DISK_SIZE=$((64 << 20))

# Little on the serial port, and nothing looked for that the machine does not have: each costs exits.
# The kernel's tests of its own ciphers, at each boot, are left to Debian.
COMMAND_LINE="rootfstype=ext4 ro console=ttyS0 quiet cryptomgr.notests 8250.nr_uarts=1"

readonly INIT=${programs:?}/nimbo-init

readonly UNPACKED=$WORK/unpacked

prepare() {
    stage "build nimbo-init" cargo build --quiet --release --locked --package nimbo-init
    BROUGHT+=("$INIT")
}

root_tree() {
    stage "unpack the packages" unpack_packages
    stage "fill the root" fill_root "$1"
    stage "add kernel and initrd" add_boot_files "$1"
}

# Files only: no maintainer script runs, for nothing here is configured the way Debian does it. What the
# resolver added for those scripts stays packed.
unpack_packages() {
    local deb name
    rm -rf "$UNPACKED"
    mkdir -p "$UNPACKED/usr/"{bin,sbin,lib,lib64}
    for name in bin sbin lib lib64; do
        ln -s "usr/$name" "$UNPACKED/$name"
    done
    for deb in "$WORK/repository"/*.deb; do
        name=${deb##*/}
        name=${name%%_*}
        case " ${PACKAGES[*]} " in *" $name "*) ;; *)
            case $name in linux-image-*-cloud-amd64 | lib* | zlib1g) ;; *) continue ;; esac ;;
        esac
        dpkg-deb --fsys-tarfile "$deb" |
            tar --extract --keep-directory-symlink --directory "$UNPACKED"
    done
}

fill_root() {
    local root=$1 program
    mkdir -p "$root"/{boot,dev,etc,mnt,proc,run,srv,sys,tmp,root,usr/{bin,sbin,lib,lib64},var/{lib,log,www}}
    chmod 1777 "$root/tmp"
    chmod 700 "$root/root"
    ln -s usr/bin "$root/bin"
    ln -s usr/sbin "$root/sbin"
    ln -s usr/lib "$root/lib"
    ln -s usr/lib64 "$root/lib64"
    ln -s ../proc/self/mounts "$root/etc/mtab"
    ln -s ../run "$root/var/run"

    install "$UNPACKED/bin/busybox" "$root/bin/busybox"
    "$root/bin/busybox" --list-full |
        grep --invert-match --line-regexp -e bin/busybox -e linuxrc -e sbin/init |
        while read -r program; do
            ln -s /bin/busybox "$root/$program"
        done
    install "$INIT" "$root/sbin/nimbo-init"
    ln -s nimbo-init "$root/sbin/init"

    for program in "${PROGRAMS[@]}"; do
        install -D "$UNPACKED$program" "$root$program"
        install_libraries "$root" "$program"
    done
    ln -s mount.nfs "$root/sbin/mount.nfs4"
    for program in "${DATA[@]}"; do
        install -D --mode=644 "$UNPACKED$program" "$root$program"
    done

    cp -r "$IMAGES/tiny/files/." "$root"
    find "$root/etc" -type f -exec chmod 644 {} +
    chmod 600 "$root/etc/shadow"
    install_modules "$root" "${INITRD_MODULES[@]}" "${ROOT_MODULES[@]}"
}

# install_libraries ROOT PROGRAM: the shared libraries of an unpacked program, found by its own loader. Those
# that their package keeps in a folder of its own move up to the others.
install_libraries() {
    local folder=usr/lib/x86_64-linux-gnu library path
    path=$(find "$UNPACKED/$folder" -maxdepth 1 -type d | LC_ALL=C sort | paste --serial --delimiters=:)
    "$UNPACKED/$folder/ld-linux-x86-64.so.2" --library-path "$path" --list "$UNPACKED$2" |
        grep --only-matching "$UNPACKED/[^ ]*" |
        while read -r library; do
            install -D --mode=644 "$library" "$1/$folder/${library##*/}"
        done
    install "$UNPACKED/$folder/ld-linux-x86-64.so.2" "$1/$folder"
    ln -sf "../../$folder/ld-linux-x86-64.so.2" "$1/usr/lib64/ld-linux-x86-64.so.2"
}

# kernel_release: of the one kernel that was unpacked.
kernel_release() {
    basename "$UNPACKED"/usr/lib/modules/*
}

# module_files MODULE...: these and all they depend on, in loading order, as paths below /lib/modules/RELEASE.
module_files() {
    local release module
    release=$(kernel_release)
    depmod --basedir "$UNPACKED" "$release"
    for module in "$@"; do
        modprobe --dirname "$UNPACKED" --set-version "$release" --show-depends "$module"
    done | sed --quiet "s|^insmod .*/modules/$release/\([^ ]*\).*|\1|p" | awk '!seen[$0]++'
}

install_modules() {
    local root=$1 release file
    release=$(kernel_release)
    local folder=usr/lib/modules/$release
    shift
    module_files "$@" | while read -r file; do
        install -D --mode=644 "$UNPACKED/$folder/$file" "$root/$folder/$file"
    done
    # What depmod reads: the order among modules that serve the same device, and what is built in.
    install --mode=644 "$UNPACKED/$folder"/modules.{order,builtin,builtin.modinfo} "$root/$folder"
    depmod --basedir "$root" "$release"
}

add_boot_files() {
    local root=$1 release
    release=$(kernel_release)
    unpack_kernel "$UNPACKED/boot/vmlinuz-$release" "$root/boot/vmlinux-$release"
    make_initrd "$root/boot/initrd-$release.cpio"
    mkdir -p "$root/boot/loader/entries"
    # shellcheck disable=SC2153 # NAME is the image's
    cat >"$root/boot/loader/entries/$NAME-$release.conf" <<END
title nimbo $NAME
version $release
linux /boot/vmlinux-$release
initrd /boot/initrd-$release.cpio
options root=PARTUUID=$(derive_uuid "$KEY" partition) $COMMAND_LINE
END
}

# little_endian FILE OFFSET BYTES: an unsigned number in a binary file.
little_endian() {
    od --address-radix=n --format="u$3" --endian=little --skip-bytes="$2" --read-bytes="$3" "$1" | tr -d ' '
}

# unpack_kernel BZIMAGE FILE: the ELF file inside. The boot protocol (Documentation/arch/x86/boot.rst) says
# where the payload lies, the payload ends with its unpacked size, and relocations follow the ELF file, of
# no use where the kernel is loaded at the address it was linked for.
unpack_kernel() {
    local image=$1 file=$2 setup_sectors offset length elf_end
    setup_sectors=$(little_endian "$image" $((0x1f1)) 1)
    offset=$(((setup_sectors + 1) * 512 + $(little_endian "$image" $((0x248)) 4)))
    length=$(little_endian "$image" $((0x24c)) 4)
    dd if="$image" of="$WORK/payload" bs=1M iflag=skip_bytes,count_bytes skip="$offset" count=$((length - 4)) status=none
    [[ $(little_endian "$WORK/payload" 0 4) = $((0x184c2102)) ]] ||
        { echo "the payload of $image is not LZ4"; return 1; }
    lz4 --decompress --force --quiet "$WORK/payload" "$WORK/vmlinux"
    [[ $(head --bytes=4 "$WORK/vmlinux") = $'\x7fELF' ]] ||
        { echo "the payload of $image is not an ELF file"; return 1; }
    # The section header table is the last part of it.
    elf_end=$(($(little_endian "$WORK/vmlinux" 40 8) + $(little_endian "$WORK/vmlinux" 58 2) * $(little_endian "$WORK/vmlinux" 60 2)))
    truncate --size="$elf_end" "$WORK/vmlinux"
    cp --sparse=always "$WORK/vmlinux" "$file"
}

# A module is named by its file, in order, so that nothing is searched for at boot.
make_initrd() {
    local file=$1 tree=$WORK/initrd release
    release=$(kernel_release)
    rm -rf "$tree"
    mkdir -p "$tree"/{dev,proc,sys,newroot,etc/nimbo}
    install "$INIT" "$tree/init"
    module_files "${INITRD_MODULES[@]}" | while read -r module; do
        install -D --mode=644 "$UNPACKED/usr/lib/modules/$release/$module" "$tree/lib/modules/$release/$module"
        echo "/lib/modules/$release/$module"
    done >"$tree/etc/nimbo/modules"
    find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    (
        cd "$tree" || exit
        find . -mindepth 1 | LC_ALL=C sort |
            cpio --quiet --create --format=newc --reproducible --owner=+0:+0
    ) >"$file"
}
