#!/bin/bash
# The whole chain with sbatch alone:  sbatch/pipeline.sh configs/default.yaml [key=value ...]
#
# Every job depends on those before it; `sllm status` and `sllm cancel` work as with `sllm submit`. Directives stand in
# the scripts beside this one. If one job is refused, those before it are cancelled. The environment may set
#   CLUSTER       the profile that says how often a stage is tried again (default h100: configs/cluster/h100.yaml)
#   SBATCH_ARGS   options for every job, such as "--account=my-project"
#   DOWNLOAD_ARRAY, PACK_ARRAY   how many tasks of a job array share the work out, before the stage's own job joins it
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
read -ra options <<<"${SBATCH_ARGS:-}"

# Variables of the job that this is called in are not meant for ours, nor may those of a site outdo the scripts. What
# the scripts leave open they may say.
for name in MASTER_ADDR ${!SLURM_@} ${!SBATCH_@} ${!SCANCEL_@}; do
  case $name in
    SLURM_CONF* | SLURM_CLUSTERS | SLURM_JWT) ;;
    SBATCH_ACCOUNT | SBATCH_QOS | SBATCH_CONSTRAINT | SBATCH_RESERVATION | SBATCH_WCKEY) ;;
    *) unset "$name" ;;
  esac
done

run=$(sllm prepare --cluster "${CLUSTER:-h100}" "$@")
sent=$(mktemp)
jobs=()
cancel() {
  rm -f "$sent"
  if [ ${#jobs[@]} -gt 0 ]; then
    echo "pipeline.sh: not all jobs could be submitted; cancelled: ${jobs[*]}" >&2
    scancel "${jobs[@]}"
  fi
}
trap cancel EXIT
# Between two jobs, so that none is submitted and not known. sbatch itself does not hear them. From here on nothing
# stands in a $( ): bash forgets a signal that comes while it waits for one (5.2: one in a hundred).
stopped= when=
trap 'stopped=1' INT HUP TERM

submit() { # STAGE [JOB ...]: sets `job` to the id of the stage's job, which starts when the given jobs have succeeded
  # or, with when=afterany, have ended
  send "$1" job "%j" "" "${@:2}"
}

share() { # STAGE TASKS [JOB ...]: the same, after a job array if there is more than one task
  local stage=$1 tasks=${2:-1}
  shift 2
  if [ "$tasks" -gt 1 ]; then
    send "$stage" array "%A_%a" "$tasks" "$@"
    set -- "$job"
  fi
  submit "$stage" "$@"
}

send() { # STAGE RECORD LOG TASKS [JOB ...]
  # Errors end the script here, because none of these functions is called in an `if` or a `||`.
  local stage=$1 record=$2 log=$3 tasks=$4 after more=()
  shift 4
  if [ -n "$tasks" ]; then more+=("--array=0-$((tasks - 1))"); fi
  if [ $# -gt 0 ]; then
    printf -v after ":%s" "$@"
    more+=("--dependency=${when:-afterok}$after" --kill-on-invalid-dep=yes)
  fi
  mkdir -p "$run/stages/$stage"
  (trap '' INT HUP TERM && sbatch --parsable --job-name="${run##*/}.$stage" \
    --output="$run/stages/$stage/$log.log" ${options[@]+"${options[@]}"} ${more[@]+"${more[@]}"} \
    "$here/$stage.sbatch" "$run" ${tasks:+"$tasks"}) >"$sent"
  IFS=';' read -r job _ <"$sent"
  jobs=("$job" ${jobs[@]+"${jobs[@]}"}) # dependents first, the order to cancel them in
  echo "{\"job\": \"$job\"}" >"$run/stages/$stage/$record.json"
  echo "$stage: $record $job" >&2
  if [ -n "$stopped" ]; then exit 130; fi
}

share download "${DOWNLOAD_ARRAY:-}"
download=$job
submit tokenizer "$download"
tokenizer=$job
share pack "${PACK_ARRAY:-}" "$download" "$tokenizer"
pack=$job
submit pretrain "$pack"
trained=("$job")
if grep -q '^finetune:$' "$run/config.yaml"; then # else it says null
  submit conversations "$tokenizer"
  submit finetune "${trained[0]}" "$job"
  trained+=("$job")
fi
submit validate "${trained[@]}"
validate=$job
submit benchmark "${trained[@]}"
when=afterany
submit report "$validate" "$job"
trap - EXIT
rm -f "$sent"
echo "Submitted. See: sllm status $run"
