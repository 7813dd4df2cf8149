"""Images: where they come from, how they lie in memory, how they are augmented."""
