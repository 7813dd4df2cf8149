"""One run: a network trained with one arm and one seed."""
