#!/bin/sh
# sh egs/s2i/wavy/run_train.sh [--resume] [--config FILE] [train.batch_size=4 ...] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run train "$@"
