#!/bin/sh
# Runs a script of a recipe as a SLURM job, from the root of the repository:
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 egs/_slurm.sh egs/tta/audioldm/run_train.sh [ARGUMENTS...]
#   sbatch --array=0-63 --cpus-per-task=8 egs/_slurm.sh egs/tta/audioldm/run_preprocess.sh [ARGUMENTS...]
# A training gets the nodes and devices of the job, and resumes if it has a checkpoint. It is saved two minutes before the
# time limit and queued again. Each task of an array gets one part of the work, --part TASK/TASKS; PARTS=64 in the
# environment is the number of parts if the array has only some of them.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

if [ "$#" -eq 0 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    printf 'usage: sbatch [FLAGS OF SBATCH] egs/_slurm.sh egs/TASK/RECIPE/run_STEP.sh [ARGUMENTS...]\n' >&2
    exit 2
fi
script=$1
shift
if [ ! -f "$script" ]; then
    printf 'error: %s: no such script in %s: submit the job from the root of the repository\n' "$script" "$PWD" >&2
    exit 2
fi

job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    set -- --part "$SLURM_ARRAY_TASK_ID/${PARTS:-$SLURM_ARRAY_TASK_COUNT}" "$@"
fi
case ${script##*/} in
run_train.sh)
    set -- --auto_resume "train.num_nodes=${SLURM_NNODES:-1}" "train.devices=${SLURM_NTASKS_PER_NODE:-1}" "$@"
    ;;
esac

cancelled=
trap 'cancelled=yes' TERM # scancel signals this shell, too; the time limit only the processes that srun has started
srun --kill-on-bad-exit=1 sh "$script" "$@"
code=$?
if [ "$code" -eq 143 ] && [ -z "$cancelled" ]; then
    printf 'job %s was stopped and saved: it is queued again\n' "$job" >&2
    scontrol requeue "$job" && code=0
fi
exit "$code"
