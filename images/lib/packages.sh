# shellcheck shell=bash
# Debian packages for a recipe: which ones, at which version, and their files.
#
# A private apt, with its own sources, lists and an empty package database, decides as apt would on an
# empty machine. It takes its mirror and its network settings (proxy and such) from the machine's own
# apt, so that a site's local mirror is used; the image itself never learns of that mirror. What apt
# verified on the way in (signatures, then hashes) is handed to the builder as a local repository.

readonly SUITE=bookworm
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The machine's own sources for SUITE, as one-line entries; Debian's public mirror where it has none.
host_sources() {
    local uri suite component found=no
    while read -r uri suite component; do
        case $suite:$component in
            "$SUITE:main" | "$SUITE-updates:main" | "$SUITE-security:main") ;;
            *) continue ;;
        esac
        echo "deb [signed-by=$KEYRING] $uri $suite $component"
        found=yes
    done < <(
        # shellcheck disable=SC2016 # the format is apt's to expand
        apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages'
    )
    [[ $found = yes ]] || public_sources "[signed-by=$KEYRING] "
}

# The sources that an image is shipped with. $1: options for every entry, or nothing.
public_sources() {
    echo "deb ${1-}http://deb.debian.org/debian $SUITE main"
    echo "deb ${1-}http://deb.debian.org/debian $SUITE-updates main"
    echo "deb ${1-}http://deb.debian.org/debian-security $SUITE-security main"
}

# apt_in_cache COMMAND ARGS...: an apt program on the private apt.
apt_in_cache() {
    APT_CONFIG=$CACHE/apt/apt.conf "$@"
}

# Sets up the private apt under $CACHE/apt. The lists are fetched when there are none, and with
# --refresh: an image stays what it is until somebody asks for newer packages.
apt_prepare() {
    local apt=$CACHE/apt
    mkdir -p "$apt"/{etc/apt.conf.d,etc/preferences.d,state/lists/partial,cache/archives/partial,empty/partial}
    : >"$apt/status"
    cat >"$apt/apt.conf" <<END
Dir "$apt";
Dir::Etc "$apt/etc";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
$(apt-config dump | grep '^Acquire::')
Acquire::Languages "none";
END
    if [[ $REFRESH = yes || ! -e $apt/fetched ]]; then
        host_sources >"$apt/etc/sources.list"
        stage "fetch package lists" apt_in_cache apt-get update --error-on=any
        touch "$apt/fetched"
    fi
}

# resolve PACKAGE...: what installing these on an empty machine takes, sorted, one line each:
# `FILE ALGORITHM:HASH`. Reads the lists only; apt leaves out what it has fetched already, so it is shown
# an archive folder that is always empty.
resolve() {
    apt_in_cache apt-get --option Dir::Cache::archives="$CACHE/apt/empty" \
        install --yes --print-uris "$@" |
        awk '/^\x27/ { print $2, $4 }' | LC_ALL=C sort
}

# fetch PACKAGE...: their files into the archive folder of the private apt; kept for the next image.
fetch() {
    apt_in_cache apt-get install --yes --download-only "$@" ||
        { echo "packages could not be fetched; if the mirror has newer ones, try --refresh" >&2; return 1; }
}

# make_repository LIST FOLDER: the packages of a resolved list as a repository of their own. Its index is
# cut from apt's verified lists, hashes included.
make_repository() {
    local file name version
    local -a records=()
    mkdir -p "$2"
    while read -r file _; do
        # The archive folder writes the colon of an epoch as %3a.
        ln "$CACHE/apt/cache/archives/$file" "$2/${file//%3a/:}"
        IFS=_ read -r name version _ <<<"${file//%3a/:}"
        records+=("$name=$version")
    done <"$1"
    apt_in_cache apt-cache show "${records[@]}" |
        awk '
            /^Package:/ { name = $2 }
            /^Version:/ { version = $2 }
            /^Architecture:/ { arch = $2 }
            /^Filename:/ { next }
            /^$/ { print "Filename: ./" name "_" version "_" arch ".deb" }
            { print }' >"$2/Packages"
}

# package_epoch FOLDER: when the newest of these packages was built, in seconds since 1970. A .deb is an
# ar archive; the date in its first member's header, bytes 24 to 35, is that of the changelog.
package_epoch() {
    local deb
    for deb in "$1"/*.deb; do
        dd if="$deb" bs=1 skip=24 count=12 status=none
        echo
    done | sort -n | tail -n 1 | tr -d ' '
}
