#!/usr/bin/env bash
# Runs tests/heavy beside real TRL, in an environment outside the clone that is named by the hash of what it holds.
# Where the environment cannot be built (no network), says so and exits 0: a missing rival is no failure of ours.
# Usage: heavy.sh PYTHON [test|python]. `python` prints the environment's interpreter, built if need be, and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
wanted=tests/heavy/requirements.txt
hash=$(cat "$wanted" constraints.txt | sha256sum | cut -c1-12)
home=${REKINDLE_CACHE:-$HOME/.cache/rekindle}/trl-1.16-$hash

build() {
    rm -rf "$home" && mkdir -p "$(dirname "$home")" && "$python" -m venv "$home" &&
        "$home/bin/python" -m pip --disable-pip-version-check install --quiet -c constraints.txt "$(grep '^torch==' constraints.txt)" &&
        "$home/bin/python" -m pip --disable-pip-version-check install --quiet -c constraints.txt -r "$wanted" &&
        touch "$home/.complete"
}

if [[ ! -e $home/.complete ]]; then
    echo "test-heavy: building $home"
    if ! build; then
        echo "##########################################################################" >&2
        echo "## SKIPPED: the environment of the heavy tests could not be built.      ##" >&2
        echo "## NOT CHECKED: agreement with TRL 1.16. Needs a package index; rerun   ##" >&2
        echo "## \`make test-heavy\` with one.                                          ##" >&2
        echo "##########################################################################" >&2
        exit 0
    fi
fi
if [[ ${2:-test} == python ]]; then
    echo "$home/bin/python"
    exit 0
fi
# This clone's own code, whichever clone built the environment.
"$home/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --editable .
exec "$home/bin/python" -m pytest -q tests/heavy -m "not effect"
