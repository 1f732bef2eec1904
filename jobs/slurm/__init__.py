"""All that is asked of Slurm, and told to it."""
