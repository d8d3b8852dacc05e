"""Scores of captions, and comparisons of runs."""
