# Sourced by every run_*.sh (which sets `here`, its own folder) and by the Makefile (which sets `root`). POSIX sh.
# run_web.sh also sets `extras`, which are installed into ROOT/.venv if Gradio is missing there.
# `run NAME ARGUMENTS...` executes bins/NAME.py with a Python >= 3.11 in which this checkout is installed:
#   $PYTHON if set, else the active python, else ROOT/.venv, which is created on first use.
# The working directory stays the same.

if [ -z "${root:-}" ]; then
    root=$(cd -- "$here/../../.." && pwd) || exit 1
fi
venv=$root/.venv
log=$root/.venv-setup.log

fail() { # fail CODE MESSAGE
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

is_new_enough() { # is_new_enough PYTHON
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Check that PYTHON imports sonolume from this checkout, not from another one, and as a package with an __init__.py.
# -P (Python >= 3.11): do not import from the working directory.
has_this_checkout() { # has_this_checkout PYTHON
    SONOLUME_ROOT=$root "$1" -P -c 'import os, sys
import sonolume
sys.exit(not os.path.samefile(os.path.dirname(sonolume.__file__), os.environ["SONOLUME_ROOT"]))
' >/dev/null 2>&1
}

find_python() { # sets `python`
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail 2 "PYTHON=$PYTHON is not a Python >= 3.11"
        has_this_checkout "$PYTHON" ||
            fail 2 "PYTHON=$PYTHON does not have this sonolume: run \"$PYTHON\" -m pip install -e \"$root\""
        python=$PYTHON
        return
    fi
    for python in python3 python "$venv/bin/python"; do
        if has_this_checkout "$python"; then
            if [ -n "${extras:-}" ] && [ "$python" = "$venv/bin/python" ] && ! has_gradio; then make_venv "$extras"; fi
            return
        fi
    done
    make_venv "${extras:-}"
    python=$venv/bin/python
}

has_gradio() {
    "$python" -P -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("gradio") is None)' >/dev/null 2>&1
}

find_base_python() { # sets `base`, the Python that creates the environment
    for base in python3 python python3.13 python3.12 python3.11 python3.14; do
        if is_new_enough "$base"; then return; fi
    done
    fail 2 "no Python >= 3.11 found: install one (Debian and Ubuntu: python3.11 and python3.11-venv) or set PYTHON=/path/to/python"
}

make_venv() { # make_venv EXTRAS: '' or '[dev]'; only one process at a time
    find_base_python
    take_lock
    if [ -z "$1" ] && has_this_checkout "$venv/bin/python"; then # created by another process in the meantime
        drop_lock
        return
    fi
    if [ "$1" = '[web]' ] && [ -e "$venv/bin/python" ] && [ ! -e "$venv/unfinished" ]; then
        printf 'sonolume: first use of the app: adding Gradio to %s, about 300 MB\n' "$venv" >&2
    else
        printf 'sonolume: first use: creating %s and installing about 1.8 GB (CPU torch; more if pip chooses CUDA), several minutes\n' "$venv" >&2
    fi
    printf 'sonolume: details: %s\n' "$log" >&2
    : >"$log"
    show_progress &
    ticker=$!
    if fill_venv "$1" >"$log" 2>&1; then
        drop_lock
        return
    fi
    drop_ticker
    tail -n 15 "$log" >&2
    drop_lock
    fail 1 "the environment could not be created: see $log; run the same command again to retry"
}

# Every 10 s, the time and what pip does; in a terminal on one line. Ends with this script, even if that is killed.
show_progress() {
    passed=0
    end='\n'
    if [ -t 2 ]; then end='\r'; fi
    while sleep 1 >/dev/null 2>&1 && kill -0 "$$" 2>/dev/null; do
        passed=$((passed + 1))
        if [ "$((passed % 10))" -eq 0 ]; then
            printf "sonolume: %4d s: %-60.60s$end" "$passed" "$(pip_step)" >&2
        fi
    done
}

pip_step() { # prints what pip began last, without its warnings and what it removes
    tail -n 100 "$log" | grep -E '^ *(Collecting|Downloading|Using cached|Building|Installing) ' | tail -n 1
}

drop_ticker() {
    if [ -z "${ticker:-}" ]; then return; fi
    kill "$ticker" 2>/dev/null
    wait "$ticker" 2>/dev/null
    ticker=
    if [ -t 2 ]; then printf '\n' >&2; fi
}

# A half-finished environment has the mark `unfinished` and is created again; an environment of the user is extended.
fill_venv() { # fill_venv EXTRAS
    if [ -e "$venv/unfinished" ]; then rm -rf "$venv"; fi
    if [ ! -e "$venv/bin/python" ]; then
        mkdir -p "$venv" && : >"$venv/unfinished" && "$base" -m venv "$venv" || return 1
    fi
    if ! is_new_enough "$venv/bin/python"; then
        printf '%s/bin/python is older than 3.11 or does not run: remove %s\n' "$venv" "$venv"
        return 1
    fi
    "$venv/bin/python" -m pip install --disable-pip-version-check -c "$root/constraints.txt" -e "$root$1" &&
        rm -f "$venv/unfinished"
}

lock=$root/.venv-lock
take_lock() {
    announced=
    missed=0
    until mkdir "$lock" 2>/dev/null; do
        if [ ! -d "$lock" ]; then # its owner has just removed it, or it cannot be made
            missed=$((missed + 1))
            if [ "$missed" -gt 3 ]; then fail 1 "cannot create .venv in $root: install sonolume in another environment and set PYTHON"; fi
            continue
        fi
        owner=$(cat "$lock/pid" 2>/dev/null) || owner=
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf "$lock" # its owner was killed
            continue
        fi
        if [ -z "$announced" ]; then
            printf 'sonolume: waiting for another process that creates the environment (if there is none, remove %s)\n' "$lock" >&2
            announced=yes
        fi
        sleep 1
    done
    trap drop_lock EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    printf '%s\n' "$$" >"$lock/pid"
}

drop_lock() {
    drop_ticker
    rm -rf "$lock"
    trap - EXIT INT TERM HUP
}

run() { # run NAME ARGUMENTS...: with the recipe's config, unless another --config follows
    name=$1
    shift
    start "$name" --config "$here/exp_config.json" "$@"
}

start() { # start NAME ARGUMENTS...
    trap 'exit 130' INT
    trap 'exit 143' TERM
    find_python
    script=$root/bins/$1.py
    shift
    SONOLUME_COMMAND=${0##*/} # the name in --help and error messages
    export SONOLUME_COMMAND
    # Python answers Ctrl-C by a traceback until utils/startup.py handles it: GNU env holds it back until then.
    if env --block-signal=INT true 2>/dev/null; then
        exec env --block-signal=INT "$python" "$script" "$@"
    fi
    exec "$python" "$script" "$@"
}
