"""Where videos come from and what is known of them: annotations, sources, the ledger."""
