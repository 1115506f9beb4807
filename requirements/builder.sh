#!/usr/bin/env bash
# buildah and debootstrap from the distribution, for the test that builds the image without a daemon and without a
# registry of images; where they cannot be had, that test is skipped.
set -uo pipefail
command -v buildah >/dev/null 2>&1 && command -v debootstrap >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing buildah and debootstrap"
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah debootstrap; } >/dev/null 2>&1 && exit 0
fi
echo "No buildah here, and none could be installed: the image is not built in the tests."
