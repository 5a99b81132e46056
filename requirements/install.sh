#!/bin/bash
# Make the virtual environment given as $1 hold exactly what dev.txt pins.
#
# On a fresh Debian or Ubuntu the module that makes virtual environments is a
# package of its own; as root it is installed.
set -euo pipefail

venv=$1
lock=$(dirname "$0")/dev.txt

newest_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or later is needed; set PYTHON to one" >&2
    return 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(newest_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        echo "Installing Debian package $package" >&2
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "$package" ca-certificates >/dev/null
    fi
    "$python" -m venv "$venv"
fi

echo "Installing Python packages into $venv" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --only-binary :all: -r "$lock"
