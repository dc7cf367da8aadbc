#!/usr/bin/env bash
# Makes the environment and runs the chapters, the tests or JupyterLab in it:
#   ./run_all.sh [--profile P] [--only CHAPTER ...] [--jobs N] [--dry-run] [--device D] [--weights reference|scratch]
#   ./run_all.sh test [pytest's arguments]
#   ./run_all.sh lab
# --with export and --with faces, before everything else, install optional packages of pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }

# The environment is made once for a given environment.yml: conda or mamba where one works, else venv and pip.
make_environment() {
    local wanted; wanted=$(cksum < environment.yml)
    if [ -x .venv/bin/python ] && [ "$(cat .venv/made-from 2>/dev/null)" = "$wanted" ]; then return; fi
    say "Making the environment in .venv (about two minutes and 2 GB, once). Then the chapters follow (some 30 minutes with the default profile) or the tests (some 17); on processors that do not multiply bf16 twice as long."
    rm -rf .venv
    local tool
    for tool in mamba conda; do
        if command -v "$tool" >/dev/null && "$tool" --version >/dev/null 2>&1 && "$tool" env create --quiet --prefix "$PWD/.venv" --file environment.yml >&2; then
            break
        fi
        rm -rf .venv
    done
    if [ ! -x .venv/bin/python ]; then
        local python; python=$(command -v python3.11 || command -v python3) || { say "Python 3.11 is needed and not found."; exit 1; }
        "$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { say "$python is older than Python 3.11."; exit 1; }
        "$python" -m venv .venv
        sed -n 's/^    - //p' environment.yml > .venv/pinned.txt
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv/pinned.txt --constraint .venv/pinned.txt
    fi
    # face-alignment brings the OpenCV that needs libGL; both builds share their files, and the last one stays
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
        "$(sed -n 's/^    - \(opencv-python-headless==[^ ]*\).*/\1/p' environment.yml)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . 2>/dev/null ||
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    printf '%s' "$wanted" > .venv/made-from
}

# Optional packages, once; nothing in environment.yml changes its version.
install_extras() {
    local extra packages
    for extra in "$@"; do
        case "$extra" in export | faces) ;; *) say "--with $extra: no such optional packages; there are export and faces"; exit 2 ;; esac
        packages=$(sed -n "s/^$extra = \[\(.*\)\].*/\1/p" pyproject.toml | tr -d '",')
        if [ "$(cat ".venv/with-$extra" 2>/dev/null)" = "$packages" ]; then continue; fi
        say "Installing $packages."
        sed -n 's/^    - //p' environment.yml > .venv/pinned.txt
        # shellcheck disable=SC2086
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv/pinned.txt $packages
        printf '%s' "$packages" > ".venv/with-$extra"
    done
}

extras=()
while [ "${1:-}" = --with ]; do
    if [ -z "${2:-}" ]; then say "--with needs a name: export or faces"; exit 2; fi
    extras+=("$2"); shift 2
done
if [ "${1:-}" = test ]; then extras+=(export faces); fi
make_environment
install_extras ${extras[@]+"${extras[@]}"}
# glibc gives large tensors back after every step and has their pages faulted in anew: up to a tenth of the time
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456
export PATH="$PWD/.venv/bin:$PATH" PYTHONUTF8=1
case "${1:-}" in
    test) shift
        if [ $# = 0 ]; then  # all tests: two processes of one thread each
            export OMP_NUM_THREADS=1
            set -- --numprocesses 2 --dist loadfile --no-loadscope-reorder
        fi
        exec python -m pytest "$@" ;;
    lab) shift
        if [ "$(id -u)" = 0 ]; then set -- --allow-root "$@"; fi  # as in containers
        exec jupyter lab notebooks/00_start_here.ipynb "$@" ;;
    *) exec python -m talking_heads run "$@" ;;
esac
