"""A search as a job on a cluster: Slurm, Kubernetes or Ray. Knows no command line."""
