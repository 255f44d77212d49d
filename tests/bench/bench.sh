#!/usr/bin/env bash
# Measures in one run on this machine: `get` of a 1 GiB model, `cat` of it through a mount, reads of cached bytes, and the
# memory of the daemon. Usage: bench.sh SILMARIL [ROUNDS]. Called by `make bench`.
#
# Publisher and reader share the machine, so transfer rates are those of both together. Only ratios are comparable.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=../demo/hosts.sh
. "$here/../demo/hosts.sh"
program=$(readlink -f "$1")
rounds=${2:-3}
enter_namespaces "$program" "$rounds"

name=bench/one-gib
bytes=$((1 << 30))
make_switch
mkdir "$WORK/bin"
ln -s "$program" "$WORK/bin/silmaril"
make_host a 1
mkdir "$WORK/a/model"
head -c $bytes /dev/urandom >"$WORK/a/model/model.bin"
on a silmaril share model/ --name $name --license mit >/dev/null
on a silmaril registry export $name >"$WORK/manifest.json"

# timed VARIABLE COMMAND...: seconds that the command takes.
timed() {
    local variable=$1 start=$EPOCHREALTIME
    shift
    "$@" >/dev/null
    printf -v "$variable" '%s' "$(awk "BEGIN { print $EPOCHREALTIME - $start }")"
}
rate() { awk "BEGIN { printf \"%.0f\", $bytes / $1 / 1e6 }"; }
median() { tr ' ' '\n' | grep . | sort -g | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

gets='' cats='' natives='' cacheds='' peak=0
for round in $(seq "$rounds"); do
    make_host "get$round" $((2 * round))
    on "get$round" silmaril registry import "$WORK/manifest.json" >/dev/null
    timed seconds on "get$round" silmaril get $name --seed=false --no-verify --peer 10.77.0.1:6881
    gets+=" $(rate "$seconds")"
    on "get$round" silmaril stop
    rm -rf "$WORK/get$round"

    host=cat$round
    make_host "$host" $((2 * round + 1))
    on "$host" silmaril registry import "$WORK/manifest.json" >/dev/null
    mkdir "$WORK/$host/models"
    on "$host" silmaril mount models --peer 10.77.0.1:6881 >/dev/null
    file=$WORK/$host/models/$name/model.bin
    timed seconds cat "$file"
    cats+=" $(rate "$seconds")"
    cmp "$file" "$WORK/a/model/model.bin"

    # Reads the same bytes from the page cache of the local file, and through the mount without page cache of its own.
    timed seconds dd if="$WORK/a/model/model.bin" bs=1M status=none
    timed seconds dd if="$WORK/a/model/model.bin" bs=1M status=none
    natives+=" $(rate "$seconds")"
    dd if="$file" iflag=nocache count=0 status=none
    timed seconds dd if="$file" bs=1M status=none
    cacheds+=" $(rate "$seconds")"
    node=$(head -n 1 "$WORK/$host/.silmaril/node.lock")
    rss=$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$node/status")
    [ "$rss" -le "$peak" ] || peak=$rss
    on "$host" silmaril stop
    rm -rf "${WORK:?}/$host"
done

get=$(median <<<"$gets") cat=$(median <<<"$cats") native=$(median <<<"$natives") cached=$(median <<<"$cacheds")
echo
echo "1 GiB, $(nproc) cores, median of $rounds rounds (all rounds in brackets)"
printf '%-44s %6s MB/s  [%s ]\n' "get" "$get" "$gets" "cat through the mount, nothing cached" "$cat" "$cats" \
    "dd of the file itself, in the page cache" "$native" "$natives" "dd through the mount, cached" "$cached" "$cacheds"
printf '%-44s %6s %%     (at least 80)\n' "cat / get" $((100 * cat / get))
printf '%-44s %6s %%     (at least 20, or 1000 MB/s)\n' "cached / native" $((100 * cached / native))
printf '%-44s %6s MiB   (below 300)\n' "largest memory of a daemon that mounts" "$peak"
[ $((100 * cat / get)) -ge 80 ] && { [ "$cached" -ge 1000 ] || [ $((100 * cached / native)) -ge 20 ]; } &&
    [ "$peak" -lt 300 ] || { echo "a bound was missed" >&2; exit 1; }
