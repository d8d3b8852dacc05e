"""A page to drop a video on: its captions, and what the memory retrieved. `python -m pipeline.app`, or make app."""
