"""Questions about videos: what do glimpses answer, and what only a memory of every frame? (docs/questions.md)"""
