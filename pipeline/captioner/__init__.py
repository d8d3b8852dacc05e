"""The captioner: mapper, memory and decoder, from frame embeddings to captions."""
