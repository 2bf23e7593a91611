#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Set up what this host lacks, then hand every argument to `imakexec`.
#
#   ./run_qemu.sh              the main job: a kernel carries its IMA log across kexec
#   ./run_qemu.sh test         the tests
#   ./run_qemu.sh --help       everything else
set -euo pipefail
unset PYTHONPATH PYTHONHOME

project=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
venv=$project/.venv
stamp=$venv/set-up-complete
log=$project/.set-up.log
mapfile -t packages < <(grep -v -e '^#' -e '^$' "$project/harness/host-packages.txt")

# git bisect takes every exit code below 128 for a judgement of the commit.
if [[ ${1-} == bisect-step ]]; then
    trap '(($? >= 128)) || exit 128' EXIT
fi

fail() { # EXIT-CODE MESSAGE...
    printf '%s\n' "${@:2}" >&2
    exit "$1"
}

# Run a command with its last line of output as progress and all of it in the log.
step() { # TITLE REMEDY COMMAND...
    local title=$1 remedy=$2 line
    [[ -t 2 ]] || printf 'set-up: %s\n' "$title" >&2
    "${@:3}" 2>&1 </dev/null | tee "$log" | while IFS= read -r line; do
        [[ ! -t 2 ]] || printf '\r\033[Kset-up: %s: %.50s' "$title" "${line//[[:cntrl:]]/}" >&2
    done || fail 3 "" "$(tail -n 15 "$log")" "set-up failed: $title" "  where: $log" "  to do: $remedy"
    [[ ! -t 2 ]] || printf '\r\033[Kset-up: %s: done\n' "$title" >&2
}

missing_packages() {
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${packages[@]}" 2>/dev/null |
        sed -n 's/^.i //p') || true
    printf '%s\n' "${packages[@]}" | grep -vxF -e "$installed" || true
}

# What the virtual environment was made from and where: it can be neither moved nor half renewed.
venv_key() {
    printf '%s %s ' "$project" "$(realpath /usr/bin/python3)"
    {
        # From here on pyproject.toml has settings that install nothing.
        sed '/^\[tool\.ruff\]/,$d' "$project/pyproject.toml"
        cat "$project"/requirements{,-build}.lock
    } | sha256sum
}

install_packages() { # PACKAGE...
    local get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get -q -o DPkg::Lock::Timeout=600)
    # The first finishes what an interrupted run left; a bare host has no package lists yet.
    "${as_root[@]}" dpkg --configure -a && {
        "${get[@]}" install -y --no-install-recommends "$@" || {
            "${get[@]}" update && "${get[@]}" install -y --no-install-recommends "$@"
        }
    }
}

set_up_packages() { # PACKAGE...
    local as_root=()
    command -v apt-get >/dev/null || fail 2 "this host has no apt-get; the project needs Debian 12" \
        "  to do: install what harness/host-packages.txt lists, or run in a Debian 12 chroot"
    if ((EUID != 0)); then
        as_root=(sudo)
        { command -v sudo >/dev/null && sudo -v; } || fail 2 \
            "host packages are missing, and only root or a user of sudo can install them" \
            "  to do: as root: apt-get update && apt-get install --no-install-recommends $*"
    fi
    step "host packages ($# missing)" "check the network and the apt settings, then run again" \
        install_packages "$@"
}

set_up_venv() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install --no-build-isolation)
    local remedy="check the network and the pip settings, then run again"
    step "virtual environment" "remove $venv, then run again" /usr/bin/python3 -m venv --clear "$venv"
    step "build requirements" "$remedy" \
        "${pip[@]}" --require-hashes -r "$project/requirements-build.lock"
    step "Python packages (one is compiled)" "$remedy" \
        "${pip[@]}" --require-hashes -r "$project/requirements.lock"
    step "imakexec" "$remedy" "${pip[@]}" --no-deps --editable "$project"
    venv_key >"$stamp"
}

set_up() {
    local missing
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]} == 0)) || set_up_packages "${missing[@]}"
    [[ -f $stamp && $(<"$stamp") == "$(venv_key)" ]] || set_up_venv
}

# One set-up of this tree at a time; the lock ends with the process, however it ends.
{
    flock --nonblock 9 || {
        echo "set-up: waiting for another run in $project" >&2
        flock 9
    }
    set_up 9<&-
} 9<"$project"

[[ ${1-} != bisect-step ]] || "$venv/bin/python" -c "import imakexec.__main__"
exec "$venv/bin/imakexec" "$@"
