"""The paper's tables and figures as data, and the demonstration that anyone can run."""
