#!/bin/bash
# The baseline of `roll_ratio`: what an operator would write who has the same machines and no upkeep.
#
#   bare_roll.sh create DIR COUNT IMAGE_TAR BRIDGE PREFIX    make COUNT machines, wait until all answer
#   bare_roll.sh roll   DIR COUNT IMAGE_TAR BRIDGE PREFIX BATCH INTERVAL
#   bare_roll.sh clear  DIR COUNT
#
# The same platform work as the nspawn driver: unpack the image once, a new overlay on it, stop in
# order, start, the same systemd-nspawn arguments; DIR/m0/groups names the `cgroup.procs` files of
# the control groups of machine 0, made beforehand with the same limits; batches of BATCH machines
# at once; each machine is waited for with the same probe at the same INTERVAL (seconds).  `clear`
# ends what `create` began, in whatever state it is.
set -eu
verb=$1 dir=$2 count=$3

unpack() { # tar -> directory named by digest, once
  local image=$dir/images/$(basename "$1" .tar)
  if [ ! -d "$image" ]; then
    mkdir -p "$image.new"
    tar -C "$image.new" -xf "$1"
    mv "$image.new" "$image"
  fi
  echo "$image"
}

start() { # machine image
  local m=$dir/m$1 image=$2 number=$1
  rm -rf "$m/old"; [ -d "$m/disk" ] && mv "$m/disk" "$m/old"
  mkdir -p "$m/disk/upper" "$m/disk/work" "$m/root" "$m/data" "$m/seed"
  chmod 755 "$m/disk/upper"
  printf '{"address": "%s.%d/24", "gateway": "%s.1"}' "$prefix" $((10 + number)) "$prefix" > "$m/seed/network.json"
  # As the driver does: control groups, mounts and processes of its own, which end with it.
  setsid bash -c 'set -e
    while read -r file; do echo $$ > "$file"; done < "$1"
    shift; exec "$@"' groups "$m/groups" \
    unshare --mount --pid --fork --kill-child bash -c 'set -e
    mount -t proc proc /proc
    mount -t tmpfs -o mode=755,size=1m tmpfs /run/systemd/nspawn
    mount -t overlay -o "$1" overlay "$2"
    shift 2; exec "$@"' machine \
    "lowerdir=$image,upperdir=$m/disk/upper,workdir=$m/disk/work" "$m/root" \
    systemd-nspawn --boot --quiet --register=no --keep-unit --console=pipe --link-journal=no \
    --resolv-conf=off --timezone=off --directory="$m/root" --machine="bare$number" \
    --hostname="bare-$number" --uuid="$(printf '00000000-0000-4000-8000-%012d' $((number + 1)))" \
    --network-bridge="$bridge" --bind="$m/data:/data" --bind-ro="$m/seed:/run/upkeep-seed" \
    </dev/null >"$m/console" 2>&1 &
  echo $! > "$m/pid"
}

# unshare's child is systemd-nspawn, whose child is the machine's own PID 1.
leader() { pgrep -P "$(pgrep -P "$(cat "$dir/m$1/pid")")" 2>/dev/null | head -1; }

is_up() { [ -d "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

stop() {
  local m=$dir/m$1 outer pid
  [ -f "$m/pid" ] || return 0
  outer=$(cat "$m/pid")
  pid=$(leader "$1") && kill -RTMIN+4 "$pid" 2>/dev/null || true
  # `tail --pid` sleeps a second between looks; this looks as often as the driver does.
  while is_up "$outer"; do sleep 0.01; done
}

answers() { [ "$(curl -s -o /dev/null -m 1 -w '%{http_code}' "http://$prefix.$((10 + $1)):8080/")" = 200 ]; }

wait_for() { while ! answers "$1"; do sleep "$interval"; done; }

case $verb in
  create)
    image=$(mkdir -p "$dir/images"; unpack "$4") bridge=$5 prefix=$6 interval=0.2
    ip link show "$bridge" >/dev/null 2>&1 || { ip link add "$bridge" type bridge; ip addr add "$prefix.1/24" dev "$bridge"; ip link set "$bridge" up; }
    for n in $(seq 0 $((count - 1))); do start "$n" "$image"; done
    for n in $(seq 0 $((count - 1))); do wait_for "$n"; done
    ;;
  roll)
    bridge=$5 prefix=$6 batch=$7 interval=$8
    image=$(unpack "$4")
    for first in $(seq 0 "$batch" $((count - 1))); do
      last=$((first + batch - 1)); [ "$last" -lt "$count" ] || last=$((count - 1))
      for n in $(seq "$first" "$last"); do
        { stop "$n"; start "$n" "$image"; wait_for "$n"; } &
        jobs[$n]=$!
      done
      for n in $(seq "$first" "$last"); do wait "${jobs[$n]}"; done
    done
    ;;
  clear)
    # With unshare the whole machine ends, whatever state it is in, and its mounts with it.
    for n in $(seq 0 $((count - 1))); do
      [ -f "$dir/m$n/pid" ] || continue
      kill -KILL "$(cat "$dir/m$n/pid")" 2>/dev/null || true
    done
    ;;
esac
