"""Reading and writing files: writes are complete or absent, reads of untrusted files are strict."""
