"""Selective adversarial training: attack only the samples that matter."""
