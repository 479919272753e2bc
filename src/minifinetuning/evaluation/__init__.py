"""What a model makes of texts: scores by document, and two models side by side."""
