"""A trained captioner at work: on one video, on a page, in a report."""
