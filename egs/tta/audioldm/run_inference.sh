#!/bin/sh
# sh egs/tta/audioldm/run_inference.sh --text "A dog barks" [--seed 1] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run inference "$@"
