"""Frame captions, their summary, and the modality gap."""
