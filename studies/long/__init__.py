"""How long does a memory last? Evidence from ten seconds to an hour before it is needed (docs/memory.md)."""
