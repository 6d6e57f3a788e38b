#!/bin/sh
# Installs the pins of one kind (runtime or dev) and this checkout, editable, into $VENV (.venv), making it if need be.
# Uses uv when it is there, else plain pip; every package is checked against its hash and byte-compiled.
set -eu

pins=$1
venv=${VENV:-.venv}
python=$venv/bin/python

say() { printf '%s\n' "$*" >&2; }
give_up() { say "$@"; exit 1; }
has_uv() { command -v uv >/dev/null 2>&1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# A name on PATH may be a shim that refuses to run, so each candidate is asked.
find_python() {
    for candidate in python3.13 python3.12 python3.11 python3; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    give_up "autopack-mcp needs Python 3.11 or newer, and none of python3.13, python3.12, python3.11, python3 is." \
        "Install one (Debian: apt-get install python3 python3-venv) and run make again."
}

make_venv() {
    base=$(find_python)
    if has_uv; then
        UV_PYTHON_DOWNLOADS=never uv venv --quiet --python "$base" "$venv"
    elif "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        "$base" -m venv "$venv"
    else
        give_up "$base cannot make virtual environments: its venv module is missing." \
            "Install it (Debian: apt-get install python3-venv) or uv, and run make again."
    fi
}

install_with_uv() {
    uv pip install --quiet --python "$python" --require-hashes --compile-bytecode --requirement "requirements/$pins.txt"
    uv pip install --quiet --python "$python" --no-deps --no-build-isolation --editable .
}

install_with_pip() {
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null ||
        give_up "$venv has no pip and cannot get it. Remove $venv and run make again."
    pip() { "$python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }
    pip install --require-hashes --requirement "requirements/$pins.txt"
    pip install --no-deps --no-build-isolation --editable .
}

[ -e "$python" ] || make_venv
is_new_enough "$python" ||
    give_up "The Python in $venv is older than 3.11 or gone. Remove $venv and run make again."

say "Installing the packages of requirements/$pins.txt into $venv; this is done once."
if has_uv; then install_with_uv; else install_with_pip; fi
