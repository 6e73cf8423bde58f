#!/bin/sh
# sh egs/web/run_web.sh [--port 7860] [--help]: the app in the browser
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
root=$(cd -- "$here/../.." && pwd) || exit 1
extras='[web]'
. "$root/egs/_run.sh"
start web "$@"
