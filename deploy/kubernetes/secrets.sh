#!/usr/bin/env bash
# Writes what nobody else may know to base/secrets/, of which kustomize makes Secrets: the token of Ray's clusters, a
# key for the encoder service, the password of Redis. What is there already is kept. Git ignores the folder.
set -euo pipefail
cd "$(dirname "$0")/base"
umask 077
mkdir -p secrets
for name in auth_token keys redis_password; do
  [ -s "secrets/$name" ] || openssl rand -hex 24 | tr -d '\n' >"secrets/$name"
done
echo "The service's keys, a line each: $PWD/secrets/keys"
