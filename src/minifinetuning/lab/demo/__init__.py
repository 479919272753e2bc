"""The demonstration: a real model and real text, in minutes on a laptop."""
