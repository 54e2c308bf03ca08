#!/usr/bin/env bash
# Everything that can be said about the code without running it. Run by ./test and `make lint`, inside the
# environment; goes on after a failure so that one run shows everything.
set -u
cd "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
failed=()

check() {
    local name=$1 output started=$SECONDS
    shift
    if output=$("$@" 2>&1); then
        printf 'lint: %-18s ok (%d s)\n' "$name" $((SECONDS - started))
    else
        printf 'lint: %-18s FAILED\n%s\n' "$name" "$output"
        failed+=("$name")
    fi
}

check "ruff check" ruff check --no-cache --output-format concise .
check "ruff format" ruff format --no-cache --check --quiet --diff .
check "mypy --strict" python -m mypy --cache-dir="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/rayward/mypy" rayward tools
check "import contracts" lint-imports --no-cache
# The agent's zip runs on whatever Python a Ray image has.
check "Python 3.9 (agent)" vermin --quiet --target=3.9- --no-tips --violations --eval-annotations \
    --backport argparse --backport dataclasses --backport enum --backport typing \
    rayward/agent rayward/store rayward/errors.py rayward/__init__.py
check "shellcheck" shellcheck -x quickstart test .ci/run tools/environment.sh tools/lint.sh

if ((${#failed[@]})); then
    printf 'lint failed: %s\n' "$(IFS=,; printf '%s' "${failed[*]}")"
    exit 1
fi
