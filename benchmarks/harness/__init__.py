"""What all benchmarks share: rounds, processes, the machine, the report."""
