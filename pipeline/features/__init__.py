"""From video files to frames and embeddings, in shards that are kept up to date."""
