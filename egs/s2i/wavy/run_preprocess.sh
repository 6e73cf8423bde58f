#!/bin/sh
# sh egs/s2i/wavy/run_preprocess.sh [--config FILE] [preprocess.num_workers=4 ...] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run preprocess "$@"
