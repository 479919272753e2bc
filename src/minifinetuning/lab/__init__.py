"""Many runs: comparisons, the paper's experiments, and the demonstration."""
