"""Which of the memory's settings matter? A second pipeline (dvc.yaml) that runs the last three stages of the main one
with one setting changed at a time, several seeds each, and tabulates what they score."""
