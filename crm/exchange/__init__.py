"""Excel and CSV: out by streaming, in after a dry run."""
