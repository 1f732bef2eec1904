"""Variables that are not meant for us: of a job, a job array, a torchrun, a site."""

OUTER_JOB = {
    "SLURM_JOB_ID": "5",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "3",
    "SLURM_ARRAY_JOB_ID": "5",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_MEM_PER_CPU": "100",
    "SUBMITIT_EXECUTOR": "slurm",
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_LOCALID": "1",
    "SUBMITIT_LOCAL_NTASKS": "7",
    "SUBMITIT_PREEMPT_SIGNAL": "HUP",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
}

SITE = {
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_TIMELIMIT": "3",
    "SBATCH_SIGNAL": "USR1@5",
    "SBATCH_PARTITION": "urgent",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_MEM_PER_CPU": "50",
    "SBATCH_OUTPUT": "/dev/null",
    "SBATCH_JOB_NAME": "site",
    "SLURM_KILL_BAD_EXIT": "0",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_TIMELIMIT": "1",
    "SLURM_CPU_BIND": "map_cpu:99",
    "SLURM_GRES": "none",
    "SLURM_TIME_FORMAT": "relative",
    "SQUEUE_STATES": "CG",
    "SCANCEL_PARTITION": "urgent",
}
"""For sbatch, srun, squeue and scancel. SBATCH_ACCOUNT and the like are another matter."""
