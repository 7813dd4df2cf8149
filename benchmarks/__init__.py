"""How fast the attack, the scoring and the training loop are, beside what others run: `make bench`."""
