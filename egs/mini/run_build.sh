#!/bin/sh
# sh egs/mini/run_build.sh PART ...: train the shipped miniature parts from nothing; --help lists them
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
root=$(cd -- "$here/../.." && pwd) || exit 1
. "$root/egs/_run.sh"
start build "$@"
