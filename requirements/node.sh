#!/usr/bin/env bash
# Makes a node of cluster.yaml ready: Python 3.11 from Ubuntu's packages, bae_ray with the extras $1 in ~/venv, and that
# first in the PATH of every shell.
set -euo pipefail
extras=$1
if ! command -v python3.11 >/dev/null; then
  (. /etc/os-release; [ "$ID $VERSION_ID" = "ubuntu 22.04" ]) || {
    echo "cluster.yaml: this image has no Python 3.11, and only Ubuntu 22.04 has it among its packages. Take the image" \
      "that field 1 says, or one with python3.11 installed." >&2
    exit 1
  }
  apt() { sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 "$@"; }
  apt update
  apt install -y python3.11 python3.11-venv python3.11-dev  # -dev: Triton compiles against its headers
fi
"$(dirname "$0")/install.sh" "$HOME/venv" "$extras"
line="export PATH=$HOME/venv/bin:\$PATH"
grep -qxF "$line" "$HOME/.bashrc" 2>/dev/null || printf '%s\n' "$line" | cat - "$HOME/.bashrc" >"$HOME/.bashrc.new"
[ ! -f "$HOME/.bashrc.new" ] || mv "$HOME/.bashrc.new" "$HOME/.bashrc"
