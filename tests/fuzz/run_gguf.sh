#!/usr/bin/env bash
# Fuzzes the GGUF reader under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer:
# run_gguf.sh [SECONDS], 60 by default. Needs clang with its sanitizer runtime (Debian and Ubuntu:
# apt install clang-19 libclang-rt-19-dev), cmake, ninja and python3. A find fails the run and
# leaves its input as build/fuzz/crash-... (or leak-..., oom-..., timeout-...).
set -euo pipefail
seconds=${1:-60}
cd "$(dirname "$0")/../.."
compiler=$(command -v clang++-19 || command -v clang++) || {
  echo "run_gguf.sh: clang++ is missing; run: apt install clang-19 libclang-rt-19-dev" >&2
  exit 1
}
cmake --preset fuzz -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build --preset fuzz --target fuzz_gguf
python3 tests/fuzz/make_gguf_corpus.py build/fuzz/seeds_gguf
mkdir -p build/fuzz/corpus_gguf
exec build/fuzz/tests/fuzz/fuzz_gguf -max_total_time="$seconds" -max_len=16384 -timeout=10 \
  -rss_limit_mb=1024 -malloc_limit_mb=256 -detect_leaks=1 -print_final_stats=1 -verbosity=0 \
  -artifact_prefix=build/fuzz/ build/fuzz/corpus_gguf build/fuzz/seeds_gguf
