#!/bin/sh
# sh egs/a2i/audio2img/run_preprocess.sh [--config FILE] [preprocess.num_workers=4 ...] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run preprocess "$@"
