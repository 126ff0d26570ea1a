#!/usr/bin/env bash
# The NEON kernels, built for 64-bit Arm and executed by an emulator: run.sh [QUARREL_BENCH]. Each
# operation is compared with its plain reference, and the bits of its result with those of this
# machine's portable kernels (QUARREL_BENCH, or the quarrel-bench in PATH). A Debian machine needs
# g++-aarch64-linux-gnu and qemu-user-static.
set -euo pipefail
host=$(realpath "$(command -v "${1:-quarrel-bench}")")
cd "$(dirname "$0")/../.."
for tool in aarch64-linux-gnu-g++ qemu-aarch64-static; do
  command -v "$tool" >/dev/null || {
    echo "run.sh: $tool is missing; run: apt install g++-aarch64-linux-gnu qemu-user-static" >&2
    exit 1
  }
done
cmake -S . -B build/neon -G Ninja -DCMAKE_BUILD_TYPE=Release -DQUARREL_BUILD_PYTHON=OFF \
  -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
  -DCMAKE_TOOLCHAIN_FILE="$PWD/tests/neon/aarch64.cmake" >/dev/null
cmake --build build/neon --target quarrel-bench | tail -n 1

work=(--op "attention_decode,attention_prefill,kv_write,linear_decode,linear_prefill,decode_step"
  --mode test --heads 4 --kv-heads 2 --head-dim 32 --n-in 256 --n-out 40 --prompt 5 --depth 70
  --batch 2 --cache paged --ctk "f16,bf16,q8_0,q4_0" --threads 2 -o csv
  --type "f32,f16,bf16,q8_0,q4_0,q4_1,q5_0,q5_1,q4_k,q5_k,q6_k")
emulated=(qemu-aarch64-static -L /usr/aarch64-linux-gnu build/neon/benchmarks/native/quarrel-bench)
"$host" "${work[@]}" --isa portable >build/neon/host.csv
pids=()
for isa in neon neon_dotprod; do # side by side: together they keep both cores busy
  "${emulated[@]}" "${work[@]}" --isa "$isa" >"build/neon/$isa.csv" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
for isa in neon neon_dotprod; do
  # Without the name of the instruction set the rows must be equal, hashes included.
  diff <(sed 's/,portable,/,/' build/neon/host.csv) <(sed "s/,$isa,/,/" "build/neon/$isa.csv")
  echo "$isa: $(($(wc -l <"build/neon/$isa.csv") - 1)) rows have the bits of the portable kernels"
done
