#!/usr/bin/env bash
# Runs the judge beside real TRL and verl, in an environment outside the clone that is named by the hash of what it holds.
# Usage: judge.sh PYTHON [write|test|python]. `python` prints the environment's interpreter, built if need be, and runs
# nothing. Where the environment cannot be built (no network), says so and exits 0.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
what=${2:-write}
verl=verl==0.9.1
wanted=(tests/heavy/requirements.txt benchmarks/judge/requirements.txt)
hash=$(cat "${wanted[@]}" constraints.txt <(echo "$verl") | sha256sum | cut -c1-12)
home=${REKINDLE_CACHE:-$HOME/.cache/rekindle}/judge-$hash

pip() { "$home/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

# verl without its dependencies, for they would replace torch; its wheel also installs a top-level package `tests`, which
# would hide ours.
build() {
    rm -rf "$home" && mkdir -p "$(dirname "$home")" && "$python" -m venv "$home" &&
        pip -c constraints.txt "$(grep '^torch==' constraints.txt)" &&
        pip -c constraints.txt "${wanted[@]/#/-r}" &&
        pip --no-deps "$verl" &&
        rm -rf "$home"/lib/python3*/site-packages/tests &&
        "$home/bin/python" -c 'import verl.trainer.ppo.core_algos' &&
        touch "$home/.complete"
}

if [[ ! -e $home/.complete ]]; then
    echo "judge: building $home"
    if ! build; then
        echo "##########################################################################" >&2
        echo "## SKIPPED: the environment of the judge could not be built.            ##" >&2
        echo "## NOT CHECKED: agreement with TRL 1.16 and verl 0.9.1. Needs a package ##" >&2
        echo "## index; rerun \`make judge\` with one.                                  ##" >&2
        echo "##########################################################################" >&2
        exit 0
    fi
fi
if [[ $what == python ]]; then
    echo "$home/bin/python"
    exit 0
fi
# This clone's own code, whichever clone built the environment.
pip --no-deps --editable .
if [[ $what == test ]]; then
    exec "$home/bin/python" -m pytest -q -m "not effect" \
        tests/heavy/test_judge.py tests/heavy/test_rewards_verl.py tests/heavy/test_interop_verl*.py \
        tests/interop/test_verl*.py tests/heavy/test_explain_verl.py
fi
exec "$home/bin/python" -m benchmarks.judge
