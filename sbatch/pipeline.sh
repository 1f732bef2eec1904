#!/bin/bash
# The whole chain with sbatch alone:  sbatch/pipeline.sh configs/default.yaml [key=value ...]
#
# Every job depends on those before it; `sllm status` and `sllm cancel` work as with `sllm submit`. Directives stand in
# the scripts beside this one. The environment may set
#   CLUSTER       the profile that says how often a stage is tried again (default h100: configs/cluster/h100.yaml)
#   SBATCH_ARGS   options for every job, such as "--account=my-project"
#   DOWNLOAD_ARRAY, PACK_ARRAY   how many tasks of a job array share the work out, before the stage's own job joins it
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
run=$(sllm prepare --cluster "${CLUSTER:-h100}" "$@")

submit() { # STAGE [JOB ...]: prints the id of the stage's job, which starts when the given jobs have succeeded
  local stage=$1 options=() job log=%j record=job
  shift
  if [ -n "${array:-}" ]; then options=("--array=0-$((array - 1))") log=%A_%a record=array; fi
  if [ $# -gt 0 ]; then options+=("--dependency=afterok:$(IFS=: && echo "$*")" --kill-on-invalid-dep=yes); fi
  mkdir -p "$run/stages/$stage"
  # shellcheck disable=SC2086 # SBATCH_ARGS are several words
  job=$(sbatch --parsable --job-name="$(basename "$run").$stage" --output="$run/stages/$stage/$log.log" \
    ${SBATCH_ARGS:-} ${options[@]+"${options[@]}"} "$here/$stage.sbatch" "$run")
  job=${job%%;*}
  echo "{\"job\": \"$job\"}" >"$run/stages/$stage/$record.json"
  echo "$stage: $record $job" >&2
  echo "$job"
}

share() { # STAGE TASKS [JOB ...]: the same, after a job array if there is more than one task
  local stage=$1 tasks=$2
  shift 2
  if [ "${tasks:-1}" -gt 1 ]; then set -- "$(array=$tasks submit "$stage" "$@")"; fi
  submit "$stage" "$@"
}

download=$(share download "${DOWNLOAD_ARRAY:-}")
tokenizer=$(submit tokenizer "$download")
pack=$(share pack "${PACK_ARRAY:-}" "$download" "$tokenizer")
pretrain=$(submit pretrain "$pack")
submit validate "$pretrain" >/dev/null
submit benchmark "$pretrain" >/dev/null
echo "Submitted. See: sllm status $run"
