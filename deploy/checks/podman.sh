# For the checks that run containers, which source it from the repository's root: podman and buildah with storage, locks and
# networks of their own below $work, and stand-ins of Debian's packages under the names of images that lie in registries.
# shellcheck shell=bash

# Says why nothing is checked, and ends.
not_checked() {
  echo "          not checked: $*"
  exit 0
}

# What is checked with containers, and the packages that this needs besides; a package is there where its command is.
for_containers() {
  local what=$1 tool missing=
  shift
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then not_checked "$what: for that, be root on Debian"; fi
  for tool in buildah podman netavark runc catatonit mmdebstrap "$@"; do
    command -v "$tool" >/dev/null || [ -x "/usr/libexec/podman/$tool" ] || [ -x "/usr/lib/podman/$tool" ] || missing="$missing $tool"
  done
  if [ -n "$missing" ]; then
    echo "install   $missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  fi
  home=$(realpath "${CARGO_TARGET_DIR:-target}")/deploy
  mkdir -p "$home"
  work=$(mktemp -d)
  trap end_containers EXIT
  export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
  # Layers lie over each other where this file system can, and are copied, which takes longer, where it cannot.
  local driver=vfs layers=$work/layers
  mkdir -p "$layers"/{lower,upper,work,merged}
  unshare --mount mount -t overlay -o "lowerdir=$layers/lower,upperdir=$layers/upper,workdir=$layers/work" \
    overlay "$layers/merged" 2>/dev/null && driver=overlay
  printf '[storage]\ndriver = "%s"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$driver" "$work" "$work" >"$CONTAINERS_STORAGE_CONF"
  cat >"$CONTAINERS_CONF" <<end
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "$work/tmp"
[network]
network_backend = "netavark"
network_config_dir = "$work/networks"
end
}

end_containers() {
  if [ -d "$work/graph" ]; then
    podman pod rm --all --force >/dev/null 2>&1 || true
    umount --recursive "$work/graph/overlay" 2>/dev/null || true
  fi
  rm -rf "$work"
}

# stand_in NAME FILE [CHANGE…] -- MMDEBSTRAP'S ARGUMENTS: imports under NAME, with podman's changes (ENV, USER, …), what
# mmdebstrap makes, and keeps that for the next time.
stand_in() {
  local name=$1 file=$2 changes=() tar
  shift 2
  while [ "$1" != -- ]; do
    changes+=(--change "$1")
    shift
  done
  shift
  tar=$home/$file-$(printf '%s\n' "$@" | sha256sum | cut -c 1-8).tar
  [ -s "$tar" ] || { mmdebstrap --quiet --format=tar "$@" "$tar.new" && mv "$tar.new" "$tar"; }
  podman import --quiet "${changes[@]}" "$tar" "$name" >/dev/null
}

# fanfare_image [whole]: the image as fanfare:0.1.0. Its last stage alone, with the binaries that lie in target/debug
# (FANFARE_BINARIES names another folder), stripped; or all of the Dockerfile, in the time of a release build, with this
# machine's Rust for Rust's image. Caches are kept.
fanfare_image() {
  local dockerfile=deploy/image/Dockerfile rust service binaries=${FANFARE_BINARIES:-${CARGO_TARGET_DIR:-target}/debug}
  base() { sed -n "s/^FROM \([^ ]*$1[^ ]*\).*/\1/p" "$dockerfile"; }
  # As distroless: the C library, and the public CAs in one file.
  # shellcheck disable=SC2016 # mmdebstrap's shell fills it in
  stand_in "$(base distroless)" base -- --variant=extract --include=libc6,libgcc-s1,ca-certificates,base-files \
    --extract-hook='cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"' bookworm
  if [ "${1:-}" = whole ]; then
    rust=$(rustc --print sysroot)
    # A C compiler beside Rust, and cargo's home where its cache is mounted. The CAs are this machine's, which may sit
    # behind a proxy.
    stand_in "$(base rust)" "rust-$(rustc --version | cut -d ' ' -f 2)" \
      'ENV CARGO_HOME=/usr/local/cargo' 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' -- \
      --variant=minbase --include=ca-certificates,gcc,libc6-dev \
      --customize-hook="tar -C '$rust' -c bin/cargo bin/rustc lib | tar -C \"\$1/usr/local\" -x --no-same-owner" \
      --customize-hook='upload /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt' bookworm
    FANFARE_REVISION=$(git rev-parse --short HEAD)
    export FANFARE_REVISION # for who asks the image
    mkdir -p "$home/cache"  # buildah keeps what `RUN --mount=type=cache` mounts below TMPDIR
    TMPDIR=$home/cache buildah bud --isolation chroot --pull-never --build-arg FANFARE_REVISION \
      --file "$dockerfile" --tag fanfare:0.1.0 .
  else
    mkdir -p "$work/build/out"
    for service in ingest fanout dispatcher scheduler api; do
      strip -o "$work/build/out/fanfare-$service" "$binaries/fanfare-$service"
    done
    buildah bud --quiet --isolation chroot --pull-never --build-context "build=$work/build" \
      --file "$dockerfile" --tag fanfare:0.1.0 . >/dev/null
  fi
}
