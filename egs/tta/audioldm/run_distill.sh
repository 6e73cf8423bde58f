#!/bin/sh
# sh egs/tta/audioldm/run_distill.sh [--checkpoint FOLDER_OR_ID] [--text_file captions.txt] [--steps 4] [--resume] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
set -- --config "$here/distill.json" "$@" # before the user's, which wins
run distill "$@"
