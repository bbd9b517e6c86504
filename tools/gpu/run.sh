#!/bin/bash
# Puts the bundle together again, compares the GPU with the CPU, and times it.
#
# usage: run.sh [RESULTS]     a folder for what was found; "results" if there is none
#
# UMRT_BENCH_SHAPES: which of the models in shapes/ to make and time; all if unset.
# UMRT_SCRATCH: where to unpack; beside this script if unset.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
results=$(mkdir -p "${1:-results}" && cd "${1:-results}" && pwd)
scratch=${UMRT_SCRATCH:-$here}
device=$(cat "$here/DEVICE")
python=$(command -v python3 || true)

say() { echo "run: $*" >&2; }

cd "$here"
sha256sum --check --quiet SHA256SUMS
tree=$scratch/umrt-gpu
if [ ! -f "$tree/complete" ]; then
  say "unpacking to $tree"
  rm -rf "$tree"
  mkdir -p "$tree"
  cat bundle.tar.xz.* | xz -dc -T0 | tar -x -C "$tree"
  touch "$tree/complete"
fi

# NVIDIA's libraries: those of the bundle, then those that are installed, then stand-ins for
# what umrt calls nothing of.
paths=$tree/umrt/lib:$tree/mlx/lib
for folder in "$tree"/nvidia/*/lib; do [ -d "$folder" ] && paths=$paths:$folder; done
if [ -n "$python" ]; then
  while read -r folder; do paths=$paths:$folder; done < <("$python" - <<'PYTHON'
import pathlib, site, sys
for packages in [*site.getsitepackages(), site.getusersitepackages()]:
    for folder in sorted(pathlib.Path(packages).glob("nvidia/*/lib")):
        print(folder)
PYTHON
  )
fi
for folder in /usr/local/cuda*/lib64; do [ -d "$folder" ] && paths=$paths:$folder; done
export LD_LIBRARY_PATH=$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ -d "$tree/stand-ins" ] && export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$tree/stand-ins
if ldd "$tree/bin/devices" "$tree/umrt/lib/libumrt.so.0" "$tree/mlx/lib/libmlx.so" |
  grep "not found" | sort -u >"$results/missing.txt"; then
  say "missing libraries:"
  cat "$results/missing.txt" >&2
  say "install the packages that \`cargo xtask setup --cuda\` names, or NVIDIA's driver"
  exit 1
fi
# MLX compiles kernels with the headers of CUDA.
if [ "$device" = 0 ] && [ ! -d "$tree/nvidia/cu13/include" ]; then
  export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
fi

"$tree/bin/devices" | tee "$results/devices.jsonl"
command -v nvidia-smi >/dev/null && nvidia-smi >"$results/nvidia-smi.txt" || true

failed=0
bundled=$(echo "$tree"/bundled/*)
say "parity"
MLX_ENABLE_TF32=0 "$tree/bin/parity" "$device" "$tree"/models/* "$bundled" >"$results/parity.jsonl" || failed=1

say "benchmark"
: >"$results/bench.jsonl"
bench() { # MODEL N_PREFILL N_DECODE
  "$tree/bin/bench" "$device" "$@" | tee -a "$results/bench.jsonl" || failed=1
  if [ "$device" = 0 ] && [ -n "$python" ] && "$python" -c "import mlx_lm" 2>/dev/null; then
    env -u LD_LIBRARY_PATH "$python" "$tree/tools/mlx_bench.py" "$@" |
      tee -a "$results/bench.jsonl" || failed=1
  fi
}
bench "$bundled" 128 64
if [ -n "$python" ] && "$python" -c "import numpy" 2>/dev/null; then
  for config in "$tree"/shapes/*.json; do
    shape=$(basename "$config" .json)
    case " ${UMRT_BENCH_SHAPES-$shape} " in *" $shape "*) ;; *) continue ;; esac
    model=$scratch/$shape
    if [ ! -f "$model/complete" ]; then
      say "making $shape"
      mkdir -p "$model"
      cp "$config" "$model/config.json"
      cp "$bundled"/tokenizer*.json "$model"
      "$python" "$tree/tools/random_checkpoint.py" "$model"
      touch "$model/complete"
    fi
    bench "$model" "${UMRT_BENCH_PREFILL:-2048}" "${UMRT_BENCH_DECODE:-256}"
  done
else
  say "python3 has no numpy: only the bundled model is timed"
fi
say "results are in $results"
exit $failed
