#!/usr/bin/env bash
# Builds the documentation site into site/, in an environment outside the clone that is named by the hash of what it holds.
# Where the environment cannot be built (no network), says so and exits 0.
# Usage: docs.sh PYTHON [build|test|notebooks|python]. `build` makes the pages; `test` builds, then checks every link and
# runs the notebooks; `notebooks` runs them and stores their outputs; `python` prints the environment's interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
what=${2:-build}
hash=$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
home=${REKINDLE_CACHE:-$HOME/.cache/rekindle}/docs-$hash

build() {
    rm -rf "$home" && mkdir -p "$(dirname "$home")" && "$python" -m venv "$home" &&
        "$home/bin/python" -m pip --disable-pip-version-check install --quiet -c constraints.txt "$(grep '^torch==' constraints.txt)" &&
        "$home/bin/python" -m pip --disable-pip-version-check install --quiet -c constraints.txt --editable '.[docs]' &&
        touch "$home/.complete"
}

if [[ ! -e $home/.complete ]]; then
    echo "docs: building $home" >&2
    if ! build; then
        echo "##########################################################################" >&2
        echo "## SKIPPED: the environment of the documentation could not be built.    ##" >&2
        echo "## NOT CHECKED: the site, its links, the notebooks. Needs a package     ##" >&2
        echo "## index; rerun \`make docs\` with one.                                   ##" >&2
        echo "##########################################################################" >&2
        exit 0
    fi
fi
if [[ $what == python ]]; then
    echo "$home/bin/python"
    exit 0
fi
# This clone's own code, whichever clone built the environment.
"$home/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --editable .
if [[ $what == notebooks ]]; then
    exec "$home/bin/python" -m scripts.notebooks write
fi
"$home/bin/python" -m scripts.method_pages docs/methods
# mkdocs' own news of other versions are not about this site.
NO_MKDOCS_2_WARNING=1 "$home/bin/python" -m mkdocs build --strict --clean --quiet
"$home/bin/python" scripts/check_site.py site
if [[ $what == test ]]; then
    exec "$home/bin/python" -m scripts.notebooks check
fi
