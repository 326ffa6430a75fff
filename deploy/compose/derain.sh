#!/bin/sh
# Serves a derainer with a token of its own, which is made at the first start.
set -eu
if [ ! -s /data/token ]; then
    (umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >/data/partial)
    mv /data/partial /data/token
fi
RGSUD_DERAIN_TOKEN=$(cat /data/token)
export RGSUD_DERAIN_TOKEN
echo "The page asks for a token: docker compose exec derain cat /data/token"
exec rgsud serve "$@"
