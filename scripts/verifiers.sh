#!/usr/bin/env bash
# Runs tests/heavy/test_rewards_verifiers.py beside the real verifiers 0.4.0, in an environment outside the clone that is
# named by the hash of what it holds. Where it cannot be built (no network), says so and exits 0.
# Usage: verifiers.sh PYTHON [test|python]. `python` prints the environment's interpreter, built if need be.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
verifiers=verifiers==0.4.0
wanted=tests/heavy/requirements.txt
hash=$(cat "$wanted" constraints.txt <(echo "$verifiers") | sha256sum | cut -c1-12)
home=${REKINDLE_CACHE:-$HOME/.cache/rekindle}/verifiers-$hash

pip() { "$home/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

build() {
    rm -rf "$home" && mkdir -p "$(dirname "$home")" && "$python" -m venv "$home" &&
        pip -c constraints.txt "$(grep '^torch==' constraints.txt)" &&
        pip -c constraints.txt "$verifiers" transformers -r <(grep -v '^trl==' "$wanted") &&
        "$home/bin/python" -c 'import verifiers.v1' &&
        touch "$home/.complete"
}

if [[ ! -e $home/.complete ]]; then
    echo "verifiers: building $home"
    if ! build; then
        echo "##########################################################################" >&2
        echo "## SKIPPED: the environment of verifiers could not be built.            ##" >&2
        echo "## NOT CHECKED: rewards from tasksets of verifiers 0.4.0. Needs a       ##" >&2
        echo "## package index; rerun \`make test-heavy\` with one.                     ##" >&2
        echo "##########################################################################" >&2
        exit 0
    fi
fi
if [[ ${2:-test} == python ]]; then
    echo "$home/bin/python"
    exit 0
fi
# This clone's own code, whichever clone built the environment.
pip --no-deps --editable .
exec "$home/bin/python" -m pytest -q tests/heavy/test_rewards_verifiers.py -m "not effect"
