#!/bin/sh
# sh egs/s2i/wavy/run_inference.sh --audio dog.wav [--prompt "a painting of <*>"] [--seed 1] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
run inference "$@"
