"""Files to texts, one kind of file in each module."""
