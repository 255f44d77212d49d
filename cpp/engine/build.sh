#!/usr/bin/env bash
# Builds the engine: libtorrent from its upstream archive with the patches of this directory, as a static library.
#
#   build.sh path    prints the directory that holds the engine (lib/, include/), built or not
#   build.sh ensure  builds the engine unless that directory exists
#   build.sh clean   deletes every engine and the downloaded archive
#
# The directory is named by everything that the result depends on, so checkouts of the same state share it. The
# archive comes from SILMARIL_ENGINE_SOURCE, the cache, or Debian's archive through apt, in this order, and is only
# used when its SHA-256 is right. SILMARIL_ENGINE_FLAVOR=asan builds with AddressSanitizer.
set -euo pipefail

version=2.0.11
archive=libtorrent-rasterbar_$version.orig.tar.xz
archive_sha256=78ab1f98874be1a10438734f7870d8bc3bd5289e1af527d68170ed055c1f56b2
suite=trixie

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/silmaril-engine
flavor=${SILMARIL_ENGINE_FLAVOR:-release}
compiler=${CXX:-c++}

fail() {
    echo "error: $*" >&2
    exit 1
}

# For all sources, and in addition for those in which speed matters (CMakeLists.txt lists them).
flags() {
    case $flavor in
    release) echo "-O1" ;;
    asan) echo "-O1 -g -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer" ;;
    *) fail "SILMARIL_ENGINE_FLAVOR is '$flavor'; it must be 'release' or 'asan'" ;;
    esac
}

hot_flags() {
    [ "$flavor" = asan ] || echo "-O2"
}

prefix() {
    local key
    flags >/dev/null
    key=$(
        {
            "$compiler" -dumpfullversion -dumpmachine
            flags
            hot_flags
            echo "$archive_sha256"
            cat "$here/CMakeLists.txt" "$here/defines.txt" "$here"/patches/*.patch
        } | sha256sum | cut -c1-16
    )
    echo "$cache/$version-$flavor-$key"
}

is_right() {
    [ -f "$1" ] && echo "$archive_sha256  $1" | sha256sum --quiet --status -c -
}

# Downloads the source package with apt, without touching the system's lists: the addresses come from the machine's
# own sources, and the suite that has this version is added to them.
from_apt() {
    local to=$1 dir uri keyring signed="" options
    command -v apt-get >/dev/null || return 1
    dir=$(mktemp -d "$cache/.apt.XXXXXX")
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -f "$keyring" ] || signed="[signed-by=$keyring]"
    options=(-q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Acquire::Languages=none
        -o Acquire::Retries=3 -o APT::Sandbox::User=)
    while read -r uri; do
        echo "deb-src $signed $uri $suite main" >"$dir/sources.list"
        if apt-get "${options[@]}" update >"$dir/log" 2>&1 &&
            (cd "$dir" && apt-get "${options[@]}" source --download-only libtorrent-rasterbar >>"$dir/log" 2>&1) &&
            is_right "$dir/$archive"; then
            mv "$dir/$archive" "$to"
            rm -rf "$dir"
            return 0
        fi
    done < <(apt-get indextargets --format '$(REPO_URI)' | grep -v security | grep -i debian | sort -u)
    rm -rf "$dir"
    return 1
}

# Puts the archive at its place in the cache.
fetch() {
    local to=$cache/$archive
    if [ -n "${SILMARIL_ENGINE_SOURCE:-}" ]; then
        is_right "$SILMARIL_ENGINE_SOURCE" ||
            fail "SILMARIL_ENGINE_SOURCE: $SILMARIL_ENGINE_SOURCE is not $archive (SHA-256 $archive_sha256)"
        cp "$SILMARIL_ENGINE_SOURCE" "$to.tmp"
        mv "$to.tmp" "$to"
        return
    fi
    is_right "$to" && return
    rm -f "$to"
    echo "fetching $archive" >&2
    from_apt "$to" && return
    fail "the engine's source, $archive (SHA-256 $archive_sha256), was not found: not at the path in" \
        "SILMARIL_ENGINE_SOURCE (not set), not in $cache, and apt could not fetch it from suite $suite." \
        "Download it and set SILMARIL_ENGINE_SOURCE to its path"
}

# Unpacks, patches and builds in a temporary directory, then renames the result. The directory always has the same name:
# a compiler's cache (ccache) distinguishes paths. There is one builder at a time.
build() {
    local to=$1 work source patch jobs
    work=$cache/.build
    rm -rf "$work"
    mkdir -m 700 "$work"
    trap "rm -rf '$work'" EXIT
    tar -C "$work" -xf "$cache/$archive"
    source=$work/libtorrent-rasterbar-$version
    for patch in "$here"/patches/*.patch; do
        patch -d "$source" -p1 -s -F0 --no-backup-if-mismatch <"$patch" ||
            fail "$patch does not apply to libtorrent $version"
    done
    jobs=$(nproc)
    echo "building the engine: libtorrent $version ($flavor); a few minutes, once" >&2
    cmake -S "$here" -B "$work/build" -DSOURCE="$source" -DCMAKE_CXX_COMPILER="$compiler" \
        -DENGINE_FLAGS="$(flags)" -DENGINE_HOT_FLAGS="$(hot_flags)" -DCMAKE_INSTALL_PREFIX="$work/out" >"$work/log" 2>&1 &&
        cmake --build "$work/build" -j "$jobs" >>"$work/log" 2>&1 &&
        cmake --install "$work/build" >>"$work/log" 2>&1 || {
        grep -A5 -E 'error|Error' "$work/log" | head -40 >&2 || true
        cp "$work/log" "$cache/failed.log"
        fail "the engine could not be built; the whole output is in $cache/failed.log"
    }
    mv -T "$work/out" "$to"
}

ensure() {
    local to
    to=$(prefix)
    [ -d "$to" ] && return
    mkdir -p "$cache"
    # One builder at a time; the next one finds the result.
    exec 9>"$cache/lock"
    flock -w 3600 9 || fail "another process has been building the engine for an hour (lock: $cache/lock)"
    # Left by a build that was killed.
    rm -rf "$cache"/.build.* "$cache"/.apt.*
    [ -d "$to" ] && return
    fetch
    build "$to"
}

case ${1:-} in
path) prefix ;;
ensure) ensure ;;
clean) rm -rf "$cache" ;;
*) fail "usage: build.sh path|ensure|clean" ;;
esac
