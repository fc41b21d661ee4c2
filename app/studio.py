"""The compiled graph that `langgraph dev` serves; its input is `RankInput`, its assistants' settings are `Context`.

The recommender is named by PROMPTAILOR_MODEL and the trained policies by PROMPTAILOR_POLICIES (NAME=FOLDER, separated
by commas); without either, the embedded model and the manual prompt serve.
"""

from __future__ import annotations

from promptailor.app.serving import serving_graph
from promptailor.app.settings import Settings

graph = serving_graph(Settings())
