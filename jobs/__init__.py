"""The batch suite: the stages as data, and the ways to run them (in this process, locally, on Slurm)."""
