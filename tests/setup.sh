#!/bin/sh
# Installs what the build needs and the system lacks: a C compiler, pkg-config
# and the OpenSSL headers. With the word "tests" also what some of them run:
# testssl.sh, strace, haproxy, nginx and python. Says nothing and does nothing when all is there.
set -eu

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install a Rust toolchain, for example from https://rustup.rs" >&2
    exit 1
fi

complete() {
    command -v cc >/dev/null 2>&1 || return 1
    command -v pkg-config >/dev/null 2>&1 && pkg-config --exists openssl 2>/dev/null && return 0
    [ -n "${OPENSSL_DIR:-}" ] && [ -d "$OPENSSL_DIR" ]
}

# Distributions call the scanner by either name.
tools() {
    [ "${1:-}" != tests ] && return 0
    # As root's shell finds them.
    for one in strace haproxy nginx python3; do
        PATH="$PATH:/usr/sbin" command -v "$one" >/dev/null 2>&1 || return 1
    done
    # nginx speaks TCP by a module.
    ls /usr/lib*/nginx/modules/ngx_stream_module.so >/dev/null 2>&1 || return 1
    command -v testssl >/dev/null 2>&1 || command -v testssl.sh >/dev/null 2>&1
}

complete && tools "$@" && exit 0

if command -v apt-get >/dev/null 2>&1; then
    install="apt-get install -y --no-install-recommends"
    packages="gcc libc6-dev pkg-config libssl-dev" extra="testssl.sh strace haproxy nginx libnginx-mod-stream python3"
    refresh="apt-get update"
elif command -v dnf >/dev/null 2>&1; then
    install="dnf install -y"
    packages="gcc pkgconf-pkg-config openssl-devel" extra="testssl strace haproxy nginx nginx-mod-stream python3"
    refresh=
elif command -v apk >/dev/null 2>&1; then
    install="apk add"
    packages="gcc musl-dev pkgconf openssl-dev openssl-libs-static" extra="testssl.sh strace haproxy nginx nginx-mod-stream python3"
    refresh=
elif command -v pacman >/dev/null 2>&1; then
    install="pacman -S --noconfirm --needed"
    packages="gcc pkgconf openssl" extra="testssl.sh strace haproxy nginx python"
    refresh="pacman -Sy"
else
    echo "install a C compiler, pkg-config and the OpenSSL headers, and for the tests testssl.sh, strace, haproxy, nginx and python; then try again" >&2
    complete && exit 0 || exit 1
fi
complete && packages=
tools "$@" && extra=

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "as root: $install $packages $extra" >&2
    complete && exit 0 || exit 1
fi

# The tests start what they need by themselves: on Debian nothing is to listen on port 80 from now on
# (invoke-rc.d(8) asks this file).
policy=/usr/sbin/policy-rc.d
unserved() {
    command -v apt-get >/dev/null 2>&1 && [ ! -e "$policy" ] || { "$@"; return; }
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    "$@" || true
    $as_root rm -f "$policy"
}

echo "installing what is missing: $packages $extra" >&2
export DEBIAN_FRONTEND=noninteractive
# Words are meant to be split.
# shellcheck disable=SC2086
{
    [ -z "$refresh" ] || $as_root $refresh || true
    # Each by itself: the one may be there where the other is not.
    [ -z "$packages" ] || $as_root $install $packages || true
    for one in $extra; do unserved $as_root $install "$one" || true; done
} >&2

# Without them all but a few tests can be run.
tools "$@" || echo "still missing: testssl.sh, strace, haproxy, nginx or python" >&2
complete || { echo "still missing: a C compiler, pkg-config or the OpenSSL headers" >&2; exit 1; }
