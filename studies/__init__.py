"""Systems and experiments beside the captioner, on the same data: a folder each, with a dvc.yaml and a params.yaml."""
