#!/bin/sh
# sh egs/mini/run_eval.sh [--num_samples 600] [--help]: score the shipped text-to-audio part by its judges
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
root=$(cd -- "$here/../.." && pwd) || exit 1
. "$root/egs/_run.sh"
find_python
exec "$python" "$root/bins/evaluate.py" --config "$root/egs/tta/audioldm/tiny.json" \
    --checkpoint "$root/pretrained/mini/text_to_audio" "$@"
