"""Where the encoder and the decoder come from: fetched, or trained here."""
