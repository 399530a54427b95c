#!/usr/bin/env bash
# Builds the Dockerfile with buildah and runs it with podman, on a machine that reaches no image registry.
#
#   deploy/rehearse.sh FOLDER [OPTION OF buildah build]...
#
# As root, on Debian with buildah, podman, catatonit, runc and debootstrap. FOLDER keeps all files, about 10 GB.
# Debian 12 with its own Python replaces the base image, which is Debian 12 with another Python.
# Options are for this machine's needs, such as --volume /etc/pip.conf:/etc/pip.conf:ro or --build-arg TORCH=cuda.
set -euo pipefail
folder=$(realpath --canonicalize-missing "${1:?give a folder}")
shift
checkout=$(realpath "$(dirname "$0")/..")
base=docker.io/library/$(sed -n 's/^FROM //p' "$checkout/Dockerfile")
store=(--root "$folder/storage" --runroot "$folder/run" --storage-driver overlay)
podman=(podman "${store[@]}" --runtime runc --cgroup-manager cgroupfs)
mkdir --parents "$folder/tmp"
export TMPDIR=$folder/tmp # the build does not fit into a small /tmp

if ! "${podman[@]}" image exists "$base"; then
    echo "== debootstrap, in place of $base"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm "$folder/debian" >/dev/null
    rm --force "$folder"/debian/usr/lib/python3.*/EXTERNALLY-MANAGED "$folder"/debian/var/cache/apt/archives/*.deb
    ln --symbolic --force /usr/bin/python3 "$folder/debian/usr/local/bin/python"
    tar --directory "$folder/debian" --create . | "${podman[@]}" import --quiet - "$base"
    rm --recursive --force "$folder/debian"
fi

echo "== the Dockerfile"
time buildah "${store[@]}" build --pull-never --layers --isolation chroot --tag tinysearch:rehearsed "$@" "$checkout"
"${podman[@]}" images

echo "== a search, with no network and as little right as in compose.yaml"
limits=(--ulimit "nofile=$(ulimit -n):$(ulimit -n)" --ulimit nproc=20000:20000) # podman's defaults may not be allowed
rights=(--read-only --read-only-tmpfs=false --tmpfs /tmp --cap-drop all --security-opt no-new-privileges)
time "${podman[@]}" run --rm "${limits[@]}" "${rights[@]}" --network none --init --shm-size 256m \
    --volume rehearsed-runs:/app/runs --volume rehearsed-cache:/cache \
    tinysearch:rehearsed run spaces/hybrid.yaml --budget quick --trials 2
