"""Measurements that a person runs by hand: `python -m bench.NAME`, a table and a last line of JSON."""

import pipeline  # noqa: F401  # before torch: it says how threads wait
