"""A vision-language model, on a server or here, as one more captioner and answerer (docs/vlm.md)."""
