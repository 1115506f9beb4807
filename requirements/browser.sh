#!/usr/bin/env bash
# Chromium from the distribution, for the test that opens a report in it; where it cannot be had, that test is skipped.
set -uo pipefail
for browser in chromium chromium-browser google-chrome; do
  command -v "$browser" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing chromium"
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 && exit 0
fi
echo "No Chromium here, and none could be installed: tests in a browser are skipped."
