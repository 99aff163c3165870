"""Research benchmarks behind design decisions; `studio/bench/LOG.md` has their results."""
