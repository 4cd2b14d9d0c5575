"""A zoo of small networks, sick and healthy, whose health is settled by training.

``ZOO`` holds them all; ``python -m zoo.label`` settles their health and writes labels.json, ``python -m zoo.run``
diagnoses and treats them and writes results.json and the table of the docs.
"""

from zoo import _borderline, _bugs, _held_out, _plain, _structured
from zoo._entry import ZOO, Entry

__all__ = ["ZOO", "Entry", "_borderline", "_bugs", "_held_out", "_plain", "_structured"]
