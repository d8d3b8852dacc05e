"""Measurements that a person runs by hand: `python -m bench.NAME`, a table and a last line of JSON."""
