"""What the Snakemake rules ask of a checked configuration: files, resources, and what a run does before its first job."""
