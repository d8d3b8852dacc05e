"""The page of the study of the modality gap."""
