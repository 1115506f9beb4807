#!/usr/bin/env bash
# From a laptop to a bucket: activations, trainings and the report all lie there, and any machine that reads the bucket
# goes on with them. BUCKET is where, OPTIONS what its file system needs to know, as pyarrow writes it; credentials are
# where AWS's own tools look for them, for example in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY:
#
#     BUCKET=s3://my-bucket/demo OPTIONS="?region=eu-west-1" examples/laptop_to_bucket.sh
#
# Killed at any point, the same command goes on where it stopped.
set -euo pipefail
: "${BUCKET:?the URI of a folder in a bucket, such as s3://my-bucket/demo}"
in_bucket() { echo "$BUCKET/$1${OPTIONS:-}"; }

# 256 texts, 2 layers x 2 positions: a minute or two on two cores.
bae-ray extract --model smollm2-135m --corpus agnews --max-texts 256 --layers 10 20 --positions 4 16 --out "$(in_bucket store)"
bae-ray store verify --store "$(in_bucket store)"

# What is read often is kept in a local cache ($BAE_RAY_CACHE).
bae-ray sweep --store "$(in_bucket store)" --out "$(in_bucket runs)" \
  --training.recipe scaled --training.epochs 30 --training.batch-size 64
bae-ray report --runs "$(in_bucket runs)" --out "$(in_bucket report)"
