#!/bin/sh
# Trains on the cluster, from the run's newest checkpoint where there is one.
set -euf # no patterns: the `?` of a scorer is to stay

name=${RGSUD_NAME:-demo}
set -- "name=$name" runs=/runs "recycling.pool=http://pool:8080/$name" \
    data.rainy=/images/rainy data.clean=/images/clean
if [ -d /images/val/rainy ]; then
    set -- "$@" data.validation_rainy=/images/val/rainy data.validation_clean=/images/val/clean
fi
# As many workers as there are containers for them. The scorer shares their cores, or two could not be placed.
set -- "$@" ray.address=auto 'ray.workers=[1, 64]' "ray.cpus=$RGSUD_TRAIN_CPUS" ray.scorer.cpus=0

# A driver lives on a node of its cluster: this one has no processors, so that nothing else comes here.
ray start --address=ray-head:6380 --num-cpus=0 --object-store-memory=134217728 >/dev/null
# shellcheck disable=SC2086 # settings are words
exec rgsud train "${RGSUD_RECIPE:-demo}" "$@" $RGSUD_SETTINGS --resume
