# Hosts for demo and bench, which source this file. Processes, mounts and networks are in namespaces of their own, which
# the kernel deletes when the script ends for any reason. An ordinary user needs user namespaces.

# Runs this script again inside new namespaces, with $WORK, a temporary directory that is removed afterwards.
enter_namespaces() {
    [ -z "${SILMARIL_INSIDE:-}" ] || return 0
    local user=()
    if [ "$(id -u)" -ne 0 ]; then
        if unshare --user --map-root-user --net --mount true 2>/dev/null && [ -w /dev/fuse ]; then
            user=(--user --map-root-user)
        elif command -v sudo >/dev/null; then
            echo "(user namespaces are not allowed here: using sudo)"
            exec sudo -- "$0" "$@"
        else
            echo "error: this needs root, or a system that allows user namespaces and /dev/fuse to users" >&2
            exit 1
        fi
    fi
    local work status=0
    work=$(mktemp -d "${TMPDIR:-/tmp}/silmaril.XXXXXX")
    SILMARIL_INSIDE=1 WORK=$work unshare "${user[@]}" --net --mount --pid --fork --kill-child --mount-proc -- \
        "$0" "$@" || status=$?
    rm -rf "$work"
    exit $status
}

# Makes the bridge that connects the hosts. It has no connection to other networks.
make_switch() {
    mount -t tmpfs tmpfs /run
    ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0
    ip link set br0 up
}

# make_host NAME NUMBER: a host with the address 10.77.0.NUMBER and the home directory $WORK/NAME.
make_host() {
    ip netns add "$1"
    ip link add eth0 netns "$1" type veth peer name "port$2"
    ip link set "port$2" master br0 up
    ip -n "$1" addr add "10.77.0.$2/24" dev eth0
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
    ip -n "$1" route add 224.0.0.0/4 dev eth0
    mkdir -p "$WORK/$1/.config/silmaril"
    cat >"$WORK/$1/.config/silmaril/config.yaml" <<EOF
network:
  listen_port: 6881
  dht_bootstrap_nodes: []
  port_mapping: false
EOF
}

# on NAME COMMAND...: runs a command on a host, in its home directory.
on() {
    local host=$1
    shift
    (cd "$WORK/$host" && exec nsenter --net="/run/netns/$host" -- \
        env -i PATH="$WORK/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$WORK/$host" LANG=C.UTF-8 "$@")
}

# stop NAME: ends all processes of a host, and waits at most ten seconds for each.
stop() {
    local pid
    for pid in $(ip netns pids "$1"); do
        kill "$pid"
        timeout 10 tail -f /dev/null --pid="$pid"
    done
}
