"""The built-in dataset: coloured shapes on a stage, with captions whose facts are known.

grammar   facts <-> captions (needs only the standard library, so that scoring can import it alone)
scenes    what happens in a video or picture: a pure function of (seed, split, index)
render    a scene's picture at a time
dataset   pictures, videos, annotations and ground truth on disk
"""
