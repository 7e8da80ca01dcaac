#!/bin/sh
# Runs the proxy with config.toml before two demo backends until Ctrl-C.
# The terminal sends that to the proxy as well, which drains: here it only ends
# a wait. A second one stops at once. The backends, started in the background,
# do not hear of it; they go last.
set -u
cd "$(dirname "$0")/../.."
bin=${CARGO_TARGET_DIR:-target}/release

if "$bin/sozuctl" -c config.toml ping >/dev/null 2>&1; then
    echo "A proxy runs with this config.toml already. Stop it first: Ctrl-C where it runs, or
  $bin/sozuctl -c config.toml shutdown" >&2
    exit 1
fi

dir=$(mktemp -d) || exit 1
backend=
trap 'rm -rf "$dir"; [ -z "$backend" ] || kill "$backend" 2>/dev/null' EXIT
mkfifo "$dir/ready" || exit 1
"$bin/examples/demo-backend" 127.0.0.1:1026 127.0.0.1:1027 >"$dir/ready" &
backend=$!
# It says one word when it listens; if it cannot, it has said why.
read -r _ <"$dir/ready" || exit 1

cat <<TEXT
Try, in another terminal:
  curl -i http://127.0.0.1:8080/          one of two backends answers
  curl -i http://127.0.0.1:8080/echo      what a backend gets to see
  $bin/sozuctl -c config.toml status
Ctrl-C stops all of it.
TEXT

trap : INT
"$bin/sozu" start -c config.toml &
sozu=$!
trap 'kill "$sozu" 2>/dev/null' TERM HUP

# A signal ends the wait, not the proxy.
wait "$sozu"
status=$?
while kill -0 "$sozu" 2>/dev/null; do
    wait "$sozu"
    status=$?
done
exit "$status"
