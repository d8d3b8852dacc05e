"""Answers to questions about videos: from nothing, one frame, glimpses, or a memory of every frame."""
