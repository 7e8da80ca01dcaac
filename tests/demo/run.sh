#!/bin/sh
# Runs the proxy with config.toml before two demo backends until Ctrl-C.
# Started in the background, both ignore Ctrl-C itself: it comes here, drains
# the proxy, and the backends go last. A second one stops at once.
set -u
cd "$(dirname "$0")/../.."
bin=${CARGO_TARGET_DIR:-target}/release

"$bin/examples/demo-backend" 127.0.0.1:1026 127.0.0.1:1027 &
backend=$!
trap 'kill "$backend" 2>/dev/null' EXIT
"$bin/sozu" start -c config.toml &
sozu=$!
trap 'kill "$sozu" 2>/dev/null' INT TERM HUP

cat <<TEXT
Try, in another terminal:
  curl -i http://127.0.0.1:8080/          the backends take turns
  curl -i http://127.0.0.1:8080/echo      what a backend gets to see
  $bin/sozuctl -c config.toml status
Ctrl-C stops all of it.
TEXT

# A signal ends the wait, not the proxy.
wait "$sozu"
status=$?
while kill -0 "$sozu" 2>/dev/null; do
    wait "$sozu"
    status=$?
done
exit "$status"
