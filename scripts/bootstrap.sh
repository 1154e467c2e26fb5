#!/bin/sh
# Makes .venv with Dayfly in it on a machine that has little more than python3, make and ssh.
#   bootstrap.sh run   what `make demo` needs
#   bootstrap.sh dev   with the tools of `make test`; type checkers follow a strict editable install
#   bootstrap.sh bench with these and the peers of `make bench`
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}
py=.venv/bin/python

say() { echo "bootstrap: $*"; }

# A pyenv shim may be on PATH and fail, so every candidate is run.
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

usable() { [ -x $py ] && new_enough $py && $py -m pip --version >/dev/null 2>&1; }

make_venv() {
    rm -rf .venv
    "$@" .venv >/dev/null 2>&1 && usable
}

with_python() {
    for python in python3.13 python3.12 python3.11 python3; do
        if new_enough "$python" && make_venv "$python" -m venv; then
            say "made .venv with $("$python" --version)"
            return 0
        fi
    done
    return 1
}

with_uv() {
    # Its own installer puts it into a folder that only the next login has on PATH.
    uv=$(PATH="$PATH:${XDG_BIN_HOME:-${HOME:-}/.local/bin}" command -v uv) || return 1
    make_venv "$uv" venv --seed --python 3.12 || return 1
    say "made .venv with uv's $($py --version)"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt_allowed() {
    command -v apt-get >/dev/null 2>&1 && as_root true 2>/dev/null
}

# Output is for a failure only: a first user reads the demo, not the log of an installer.
quietly() {
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
}

apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@"; }

apt_install() {
    say "installing $* with apt"
    # The lists of a fresh image are empty or old.
    apt_get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { quietly apt_get update && quietly apt_get install -y --no-install-recommends "$@"; }
}

with_apt() {
    new_enough python3 && apt_allowed && apt_install python3-venv && with_python
}

no_python() {
    rm -rf .venv
    if new_enough python3 && command -v apt-get >/dev/null 2>&1; then
        command="sudo apt-get install -y python3-venv"
    elif command -v brew >/dev/null 2>&1; then
        command="brew install python@3.13"
    else
        command="curl -LsSf https://astral.sh/uv/install.sh | sh"
    fi
    echo "Dayfly needs Python 3.11 or newer that can make a virtual environment. Run this, then make again:" >&2
    echo "    $command" >&2
    exit 1
}

sshd_there() {
    PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin:/opt/homebrew/sbin" command -v sshd >/dev/null 2>&1
}

# Dayfly runs an sshd of its own for each run. The system's, which the package would start and
# enable, stays off.
install_sshd() {
    policy=/usr/sbin/policy-rc.d
    ours=no
    if [ ! -e $policy ]; then
        ours=yes
        # Left behind, it would keep the services of all later packages off.
        trap 'as_root rm -f $policy' EXIT
        trap 'exit 130' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
    fi
    installed=yes
    apt_install openssh-server || installed=no
    if [ $ours = yes ]; then
        as_root rm -f $policy
        trap - EXIT INT TERM HUP
    fi
    if [ $installed = yes ] && [ -d /run/systemd/system ]; then
        as_root systemctl disable --quiet ssh.service ssh.socket 2>/dev/null || true
    fi
    [ $installed = yes ]
}

install_dayfly() {
    # A strict editable install holds links, so a new file needs a new install.
    files=$(find infra runtime stacks \( -name '*.py' -o -name 'go.*' -o -name '*.csv' -o -name py.typed \) | LC_ALL=C sort)
    now=$({ cat pyproject.toml constraints.txt; echo "$files"; pwd; } | cksum)
    # Each kind holds the ones before it.
    case $kind in
        bench) enough=bench extras='[dev,bench]' ;;
        dev) enough='dev bench' extras='[dev]' ;;
        *) enough='run dev bench' extras='' ;;
    esac
    for stamp in $enough; do
        [ "$(cat ".venv/.installed-$stamp" 2>/dev/null)" != "$now" ] || return 0
    done
    say "installing Dayfly into .venv"
    rm -f .venv/.installed-*
    if [ -n "$extras" ]; then
        # The clouds' SDKs are 12,000 modules, of which a hundred are ever imported: each is compiled then.
        quietly $py -m pip install --no-compile -c constraints.txt --config-settings editable_mode=strict -e ".$extras"
    else
        quietly $py -m pip install -c constraints.txt -e .
    fi
    echo "$now" >".venv/.installed-$kind"
}

export PIP_DISABLE_PIP_VERSION_CHECK=1
usable || with_python || with_apt || with_uv || no_python
if ! sshd_there; then
    # Without it Dayfly itself says what to install; other providers do not need it.
    if apt_allowed; then install_sshd || say "no sshd: provider \"local\" will not work"; fi
fi
install_dayfly
