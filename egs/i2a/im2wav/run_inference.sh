#!/bin/sh
# sh egs/i2a/im2wav/run_inference.sh --image dog.png | --video clip.mp4 --mux [--seed 1] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run inference "$@"
