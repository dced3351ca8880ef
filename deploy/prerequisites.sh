# Sourced by deploy/demo and tests/run: installs what they need on Debian and
# Ubuntu. Elsewhere it names what is missing and leaves it to you.

say() { printf '%s\n' "$*" >&2; }

# Asks before the machine is changed; no terminal or ASSUME_YES=1 means yes.
agreed() {
    [ "${ASSUME_YES:-}" = 1 ] && return 0
    [ -t 0 ] || return 0
    printf '%s [Y/n] ' "$1" >&2
    read -r answer
    case "$answer" in "" | y | Y | yes) return 0 ;; *) return 1 ;; esac
}

# install_packages NAME... : those that dpkg does not know as installed.
install_packages() {
    local missing="" name
    command -v dpkg >/dev/null || { say "not Debian or Ubuntu: please install by hand: $*"; return 0; }
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $name"
    done
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || { say "missing packages:$missing; run: sudo apt-get install$missing"; return 1; }
    agreed "Install from Debian's archive:$missing?" || { say "not installed:$missing"; return 1; }
    say "installing$missing"
    apt-get update -qq >&2
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
}

# The Rust tool chain this project is built with, or word how to get it. It is
# never installed here: where tool chains come from is yours to say.
require_rust() {
    local manifest needed installed
    manifest="$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml"
    needed="$(sed -n 's/^rust-version *= *"\(.*\)".*/\1/p' "$manifest")"
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        say "Rust is not installed, and $needed or newer is needed. Install it, then run this again:"
        say "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
        return 1
    fi
    installed="$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')" || true
    [ "$(printf '%s\n' "$needed" "$installed" | sort -V | head -n 1)" = "$needed" ] && return 0
    say "Rust ${installed:-of no known version} is installed, and $needed or newer is needed. Run, then run this again:"
    if command -v rustup >/dev/null; then
        say "  rustup update stable && rustup default stable"
    else
        say "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh    # puts a newer one before yours"
    fi
    return 1
}

# A Docker Engine that answers, installed and started where there is none.
require_engine() {
    docker version >/dev/null 2>&1 && return 0
    if ! command -v dockerd >/dev/null; then
        install_packages docker.io || return 1
    fi
    docker version >/dev/null 2>&1 && return 0
    [ "$(id -u)" = 0 ] || { say "the Docker Engine does not answer: is it running, and may you use it?"; return 1; }
    if command -v systemctl >/dev/null && systemctl is-system-running >/dev/null 2>&1; then
        systemctl start docker
    elif command -v service >/dev/null; then
        service docker start >&2 || true
    fi
    for _ in $(seq 50); do
        docker version >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    say "the Docker Engine was installed but does not answer; see: journalctl -u docker"
    return 1
}
