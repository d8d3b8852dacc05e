"""The attention captioner: features of a video net kept in time and space, an LSTM that looks at them word by word, and
explanations of its captions that are scored. A pipeline of its own (dvc.yaml)."""
