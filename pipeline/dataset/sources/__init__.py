"""One module per source of videos: a folder, a site, a hub, COCO, the built-in dataset."""
