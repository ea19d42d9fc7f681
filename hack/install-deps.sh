#!/usr/bin/env bash
# Installs what builds and tests need of a Debian machine besides Go. This is the one list of such packages.
set -euo pipefail
packages=(
  ca-certificates # the module proxy speaks TLS
  gcc libc6-dev   # the race detector
  git             # the version of the build
  make
  e2fsprogs mount # tests of full and slow disks
  iproute2        # tests of what a hostile registry leads to
  runc            # end-to-end tests: containerd's runtime
  nftables        # end-to-end tests: kube-proxy
  busybox-static  # end-to-end tests: the image of the pods
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" = 0 ]; then
  echo 'all packages are installed'
  exit 0
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
