"""The library. Functions take and return values; stages decide which files those come from."""

import os

# Threads that wait for each other sleep rather than spin. If another process needs the core of one of them, the others
# would spin through whole time slices at every product. Torch reads this when it loads, so it precedes all imports.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
