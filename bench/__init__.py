"""`make bench`: Kontora's slow paths beside their peers, in one run, on both databases. See docs/benchmarks.md."""
