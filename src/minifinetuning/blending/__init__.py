"""The line between a model and what it was tuned to, and the best point on it."""
