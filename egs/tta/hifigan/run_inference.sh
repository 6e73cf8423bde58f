#!/bin/sh
# sh egs/tta/hifigan/run_inference.sh --audio a.wav [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run inference "$@"
