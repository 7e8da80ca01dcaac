#!/bin/sh
# Fuzzes every target for a while: tests/fuzz/run.sh [SECONDS [TARGET...]]
#
# Works on a stable toolchain: cargo-fuzz's -Zsanitizer flags need nightly, but LLVM's
# coverage pass and libFuzzer do not. What is found to be new goes under the target
# directory; a failing input is printed with its path. The corpus in the tree stays
# small and made by hand: add an input there once it has found something.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v sozu-fuzz)

host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz
export CARGO_TARGET_DIR="$out"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"

# With --target the flags spare build scripts, which have no libFuzzer to link with.
cargo build --release --target "$host"
for target in "$@"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    echo "== $target, $seconds s"
    "$out/$host/release/$target" -max_total_time="$seconds" -max_len=20000 -timeout=5 \
        -artifact_prefix="$out/artifacts/$target/" "$out/corpus/$target" "corpus/$target" \
        >"$out/$target.log" 2>&1 || { tail -40 "$out/$target.log"; exit 1; }
    # Coverage of the corpus as it was, then at the end.
    grep -E '(INITED|DONE)' "$out/$target.log"
done
