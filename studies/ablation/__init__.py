"""Which of the memory's settings matter? A pipeline of its own (dvc.yaml) that runs the main one's last three stages
with one setting changed at a time, several seeds each, and tabulates what they score."""
