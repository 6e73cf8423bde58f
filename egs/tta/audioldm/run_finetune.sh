#!/bin/sh
# sh egs/tta/audioldm/run_finetune.sh --input my_clips/ [--checkpoint FOLDER_OR_ID] [--method lora] [--resume] [--help]
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
. "$here/../../_run.sh"
set -- --config "$here/finetune.json" "$@" # before the user's, which wins
run finetune "$@"
