"""Questions about videos and pictures: their table, and the formats in which others have published them."""
