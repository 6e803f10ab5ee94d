#!/bin/sh
# Install a server that stands for a vendor's object store, if it is not there yet, and print its folder.
# Usage: object-servers.sh moto|azurite CACHE_FOLDER PYTHON
set -eu

MOTO=5.2.5
AZURITE=3.35.0
name=$1 cache=$2 python=$3

case $name in
moto)
    folder=$cache/moto-$MOTO
    if [ ! -e "$folder/.done" ]; then
        rm -rf "$folder"
        "$python" -m uv venv -q --python "$python" "$folder" >&2
        "$python" -m uv pip install -q --python "$folder/bin/python" "moto[s3]==$MOTO" flask flask-cors >&2
        touch "$folder/.done"
    fi
    ;;
azurite)
    folder=$cache/azurite-$AZURITE
    command -v node >/dev/null || { echo "node is not installed (Debian packages nodejs, npm)" >&2; exit 1; }
    if [ ! -e "$folder/.done" ]; then
        command -v npm >/dev/null || { echo "npm is not installed (Debian package npm)" >&2; exit 1; }
        rm -rf "$folder"
        mkdir -p "$folder"
        npm install --prefix "$folder" --no-audit --no-fund --no-update-notifier --loglevel=error \
            "azurite@$AZURITE" >&2
        touch "$folder/.done"
    fi
    ;;
*)
    echo "unknown server $name" >&2
    exit 1
    ;;
esac
echo "$folder"
