#!/usr/bin/env bash
# Fuzzes the KV cache beside its naive twin, and the reader of saved caches, under AddressSanitizer,
# LeakSanitizer and UndefinedBehaviorSanitizer: run_cache.sh [SECONDS], 20 by default, half for
# each. Needs what run_gguf.sh needs. A find fails the run and leaves its input in build/fuzz/.
set -euo pipefail
seconds=${1:-20}
cd "$(dirname "$0")/../.."
compiler=$(command -v clang++-19 || command -v clang++) || {
  echo "run_cache.sh: clang++ is missing; run: apt install clang-19 libclang-rt-19-dev" >&2
  exit 1
}
cmake --preset fuzz -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build --preset fuzz --target fuzz_cache fuzz_snapshot make_snapshot_corpus
mkdir -p build/fuzz/corpus_cache build/fuzz/corpus_snapshot build/fuzz/seeds_snapshot
build/fuzz/tests/fuzz/make_snapshot_corpus build/fuzz/seeds_snapshot
options=(-max_total_time=$((seconds / 2)) -timeout=10 -rss_limit_mb=1024 -detect_leaks=1
  -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/)
build/fuzz/tests/fuzz/fuzz_cache "${options[@]}" -max_len=2000 build/fuzz/corpus_cache
build/fuzz/tests/fuzz/fuzz_snapshot "${options[@]}" -max_len=4096 build/fuzz/corpus_snapshot \
  build/fuzz/seeds_snapshot
