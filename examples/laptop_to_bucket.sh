#!/usr/bin/env bash
# From a laptop to a bucket: activations are extracted into it, checked there, and trained on from there, on this machine or
# on any other that reads the bucket. STORE is where, as pyarrow writes it; credentials are where AWS's own tools look for
# them, for example in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY:
#
#     STORE="s3://my-bucket/store?region=eu-west-1" examples/laptop_to_bucket.sh
#
# Killed at any point, the same command goes on where it stopped.
set -euo pipefail
: "${STORE:?the URI of a folder in a bucket, such as s3://my-bucket/store?region=eu-west-1}"

# 256 texts, 2 layers x 2 positions: a minute or two on two cores.
bae-ray extract --model smollm2-135m --corpus agnews --max-texts 256 --layers 10 20 --positions 4 16 --out "$STORE"
bae-ray store verify --store "$STORE"

# What is read of the bucket is kept in a local cache ($BAE_RAY_CACHE); runs are written to a local folder.
bae-ray sweep --store "$STORE" --out runs/bucket --training.recipe scaled --training.epochs 30 --training.batch-size 64
bae-ray report --runs runs/bucket --out runs/bucket-report
