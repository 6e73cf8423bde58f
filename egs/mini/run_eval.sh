#!/bin/sh
# sh egs/mini/run_eval.sh [PART] [--num_samples 600] [--help]: score a shipped part; text_to_audio if none is named
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
root=$(cd -- "$here/../.." && pwd) || exit 1
. "$root/egs/_run.sh"
case ${1-} in
    '' | -* | *=*) part=text_to_audio ;;
    *) part=$1 && shift ;;
esac
config=$here/$part.json
if [ "$part" = text_to_audio ]; then config=$root/egs/tta/audioldm/tiny.json; fi
if [ ! -f "$config" ]; then
    fail 2 "$part: no such part: text_to_audio, sound_judge, sound_judge_second, picture_judge, stable_diffusion, clip, hubert (see egs/mini/README.md)"
fi
case ${1-} in
    -h | --help) printf 'run_eval.sh [PART]: score a shipped part (default: text_to_audio), with these flags:\n\n' ;;
esac
start evaluate --config "$config" --checkpoint "$root/pretrained/mini/$part" "$@"
