#!/usr/bin/env bash
# A lab's Slurm: an extraction and a sweep on nodes of Ray, and the same cells as a job array without Ray. On the login
# node, in the repository's folder on a file system that all nodes see, with the environment active (source
# .venv/bin/activate). SHARED is a folder on such a file system. A partition, an account and GPUs are options of sbatch
# (`--partition`, `--account`, `--gpus-per-node`), or its variables (SBATCH_PARTITION, ...).
#
#     SHARED=/shared/mine examples/slurm.sh
set -euo pipefail
: "${SHARED:?a folder that all nodes see, such as /shared/mine}"

# Each job is a command on a cluster of Ray that lives as long as the job. --wait: until it is over.
sbatch --wait --nodes=2 deploy/slurm/sweep.sbatch \
  bae-ray extract --model smollm2-135m --corpus agnews --max-texts 256 --layers 10 20 --positions 4 16 --out "$SHARED/store"
sbatch --wait --nodes=2 deploy/slurm/sweep.sbatch \
  bae-ray sweep --store "$SHARED/store" --out "$SHARED/sweep" \
  --training.recipe scaled --training.epochs 30 --training.batch-size 64
bae-ray report --runs "$SHARED/sweep" --out "$SHARED/report"

# The same four cells, each in a task of its own.
LAYERS="10 20" POSITIONS="4 16" sbatch --wait --array=0-3 deploy/slurm/array.sbatch "$SHARED/store" "$SHARED/array" \
  --training.recipe scaled --training.epochs 30 --training.batch-size 64
bae-ray entropy --runs "$SHARED/array" --out "$SHARED/array.csv"
