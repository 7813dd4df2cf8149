"""How fast the study's attack, training loop and exact gradient matching are beside other ways to the same result."""
