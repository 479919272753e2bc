"""A run: its configuration, its texts, the trainer, and the folder that it writes."""
