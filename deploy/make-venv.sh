#!/bin/sh
# make-venv.sh PYTHON FOLDER LOCKFILE: a virtual environment with exactly the locked packages, and the `pillarbox`
# command. Repeating it brings an existing environment up to date.
set -eu
python=$1 folder=$2 lock=$3

command -v "$python" >/dev/null 2>&1 || {
    echo "There is no $python here. Pillarbox needs Python 3.11 or newer; try: make PYTHON=/path/to/python3" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Pillarbox needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Try: make PYTHON=python3.12" >&2
    exit 1
}

# Asked and not only looked for: the Python it was made with may have been removed since.
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

if ! pip --version >/dev/null 2>&1; then
    echo "Making the virtual environment $folder ..."
    "$python" -m venv --clear "$folder" 2>/dev/null || {
        rm -rf "$folder"
        if command -v uv >/dev/null 2>&1; then
            uv venv --quiet --seed --python "$python" "$folder"
        elif command -v virtualenv >/dev/null 2>&1; then
            virtualenv --quiet --python "$python" "$folder"
        else
            echo "$python cannot make virtual environments. Debian and Ubuntu: apt-get install python3-venv;" \
                 "elsewhere install uv or virtualenv." >&2
            exit 1
        fi
    }
fi

echo "Installing the locked packages ..."
pip install --quiet --require-hashes -r "$lock"
pip install --quiet --no-deps --no-build-isolation -e .
