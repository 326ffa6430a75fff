#!/bin/sh
# Runs a command that may write to the pool.
set -eu
RGSUD_POOL_TOKEN=$(cat /tokens/write/token)
export RGSUD_POOL_TOKEN
exec "$@"
