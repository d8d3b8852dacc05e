"""The library: nouns. Functions take and return values; which files they come from is the stages' business."""
