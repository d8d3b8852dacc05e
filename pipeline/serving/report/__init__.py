"""One page that shows runs side by side: scores, captions, and which past frames the memory retrieved.

`python -m pipeline.report baseline memory` writes metrics/report.html.
"""
