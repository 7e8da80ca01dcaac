#!/bin/sh
# Installs what the build and the tests need and the system lacks: a C compiler, pkg-config,
# the OpenSSL headers and strace. Says nothing and does nothing when all is there.
set -eu

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install a Rust toolchain, for example from https://rustup.rs" >&2
    exit 1
fi

complete() {
    command -v cc >/dev/null 2>&1 || return 1
    command -v strace >/dev/null 2>&1 || return 1
    command -v pkg-config >/dev/null 2>&1 && pkg-config --exists openssl 2>/dev/null && return 0
    [ -n "${OPENSSL_DIR:-}" ] && [ -d "$OPENSSL_DIR" ]
}

complete && exit 0

if command -v apt-get >/dev/null 2>&1; then
    install="apt-get install -y --no-install-recommends gcc libc6-dev pkg-config libssl-dev strace"
    refresh="apt-get update"
elif command -v dnf >/dev/null 2>&1; then
    install="dnf install -y gcc pkgconf-pkg-config openssl-devel strace"
    refresh=
elif command -v apk >/dev/null 2>&1; then
    install="apk add gcc musl-dev pkgconf openssl-dev openssl-libs-static strace"
    refresh=
elif command -v pacman >/dev/null 2>&1; then
    install="pacman -S --noconfirm --needed gcc pkgconf openssl strace"
    refresh="pacman -Sy"
else
    echo "install a C compiler, pkg-config, the OpenSSL headers and strace, then try again" >&2
    exit 1
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "as root: $install" >&2
    exit 1
fi

echo "installing what is missing: $install" >&2
export DEBIAN_FRONTEND=noninteractive
# Words are meant to be split.
# shellcheck disable=SC2086
{
    [ -z "$refresh" ] || $as_root $refresh || true
    $as_root $install
} >&2

complete || { echo "still missing: a C compiler, pkg-config, the OpenSSL headers or strace" >&2; exit 1; }
