#!/usr/bin/env bash
# Walks docs/first_run.md as a newcomer does: a fresh clone of this repository in a fresh folder, an environment of its own,
# every command of the page. Prints what each stage took; fails where a command does, where there is no report, or after
# more than LIMIT seconds. Usage: first_run.sh [FOLDER], which must not exist; without it, one that is removed at the end.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
limit=${LIMIT:-900}
if [[ $# -gt 0 ]]; then
    mkdir "$1" && cd "$1"
else
    fresh=$(mktemp -d) && cd "$fresh" && trap 'rm -rf "$fresh"' EXIT
fi

stage=
began=0
times=()
# The page's next heading: tells what the one before it took.
stage() {
    [[ $1 == "$stage" ]] && return
    if [[ -n $stage ]]; then
        times+=("$(printf '%5d s  %s' $((SECONDS - began)) "$stage")")
    fi
    stage=$1 began=$SECONDS
    echo "== $stage"
}

page=$(python3 "$root/scripts/blocks.py" "$root/docs/first_run.md")
# shellcheck disable=SC1090  # the page is what is tried
source <(sed "s|REPOSITORY|'$root'|" <<<"$page")
stage end

echo
printf '%s\n' "${times[@]}"
printf '%5d s  in all\n' "$SECONDS"
grep -q '<title>' runs/first/report.html || { echo "first run: there is no report" >&2; exit 1; }
if ((SECONDS > limit)); then
    echo "first run: it took more than $limit s" >&2
    exit 1
fi
