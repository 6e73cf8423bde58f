#!/bin/sh
# sh egs/mini/run_build.sh PART ...: train the shipped miniature parts from nothing; --help lists them
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
root=$(cd -- "$here/../.." && pwd) || exit 1
. "$root/egs/_run.sh"
find_python
SONOLUME_COMMAND=${0##*/} # named in the usage line
export SONOLUME_COMMAND
exec "$python" "$root/bins/build.py" "$@"
