#!/usr/bin/env bash
# All that waits for a GPU, in one call: the op's tests on it, then every table there.
#     bash benchmarks/gpu.sh [FOLDER OF THE RESULTS]
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results}
gpu=(--device cuda --output "$output")

python -m pytest -q tests/ops
python benchmarks/loss.py "${gpu[@]}" --rounds 10 --name loss_cuda
python benchmarks/loss.py "${gpu[@]}" --tokens 8192 --vocabulary 128256 --rounds 20 \
    --name loss_cuda_llama1b
python benchmarks/step.py "${gpu[@]}" --shape llama1b --sequences 16 --sequence_length 2048 \
    --rounds 10 --name step_cuda
# 16 x 2048 tokens a forward pass: what they need beside finetuning is the teacher's head.
python benchmarks/end_to_end.py "${gpu[@]}" --shape llama1b --adapters full,lora --sequences 32 \
    --per_step 16 --sequence_length 2048 --name end_to_end_cuda
python benchmarks/growth.py "${gpu[@]}" --shape llama1b --hidden 2048 --rounds 10 --name growth_cuda
