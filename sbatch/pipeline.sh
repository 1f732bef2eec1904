#!/bin/bash
# The whole chain with sbatch alone:  sbatch/pipeline.sh configs/default.yaml [key=value ...]
#
# Every job depends on those before it; `sllm status` and `sllm cancel` work as with `sllm submit`. Directives stand in
# the scripts beside this one. The environment may set
#   CLUSTER       the profile that says how often a stage is tried again (default h100: configs/cluster/h100.yaml)
#   SBATCH_ARGS   options for every job, such as "--account=my-project"
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
run=$(sllm prepare --cluster "${CLUSTER:-h100}" "$@")

submit() { # STAGE [JOB ...]: prints the id of the stage's job, which starts when the given jobs have succeeded
  local stage=$1 after=() job
  shift
  if [ $# -gt 0 ]; then after=("--dependency=afterok:$(IFS=: && echo "$*")" --kill-on-invalid-dep=yes); fi
  mkdir -p "$run/stages/$stage"
  # shellcheck disable=SC2086 # SBATCH_ARGS are several words
  job=$(sbatch --parsable --job-name="$(basename "$run").$stage" --output="$run/stages/$stage/%j.log" \
    ${SBATCH_ARGS:-} ${after[@]+"${after[@]}"} "$here/$stage.sbatch" "$run")
  job=${job%%;*}
  echo "{\"job\": \"$job\"}" >"$run/stages/$stage/job.json"
  echo "$stage: job $job" >&2
  echo "$job"
}

download=$(submit download)
tokenizer=$(submit tokenizer "$download")
pack=$(submit pack "$download" "$tokenizer")
pretrain=$(submit pretrain "$pack")
submit validate "$pretrain" >/dev/null
submit benchmark "$pretrain" >/dev/null
echo "Submitted. See: sllm status $run"
