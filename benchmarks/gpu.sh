#!/usr/bin/env bash
# All that waits for a GPU, in one call: the op's tests on it, then every table there.
#     bash benchmarks/gpu.sh [FOLDER OF THE RESULTS]
# A piece that fails or runs over its time does not keep the others from running; the exit status is
# the number of those that did.
set -uo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results}
gpu=(--device cuda --output "$output")
failed=()

# piece NAME MINUTES COMMAND...
piece() {
    local name=$1 minutes=$2
    shift 2
    echo "== $name (at most $minutes min)"
    timeout "${minutes}m" "$@"
    local status=$?
    ((status == 0)) || failed+=("$name ($( ((status == 124)) && echo "over its time" || echo "exit $status"))")
}

piece "the op's tests" 5 python -m pytest -q tests/ops
piece "one loss" 5 python benchmarks/loss.py "${gpu[@]}" --tokens 8192 --vocabulary 128256 \
    --rounds 20 --name loss_cuda_llama1b
piece "a step" 5 python benchmarks/step.py "${gpu[@]}" --shape llama1b --rounds 10 --name step_cuda
piece "a whole run" 8 python benchmarks/end_to_end.py "${gpu[@]}" --shape llama1b \
    --adapters lora,full --sequences 32 --per_step 4 --sequence_length 2048 --epochs 4 \
    --name end_to_end_cuda
piece "the trainer's tests" 5 python -m pytest -q tests/trainer tests/cache
piece "the loss over sizes" 15 python benchmarks/loss.py "${gpu[@]}" --rounds 10 --name loss_cuda
piece "growth" 10 python benchmarks/growth.py "${gpu[@]}" --shape llama1b --hidden 2048 --rounds 10 \
    --name growth_cuda

for name in "${failed[@]+"${failed[@]}"}"; do echo "FAILED: $name" >&2; done
exit "${#failed[@]}"
