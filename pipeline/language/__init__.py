"""The decoder, a causal language model, and beam search in it."""
