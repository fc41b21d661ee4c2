"""The chat graph: what a visitor wants, candidates, the rank graph as a subgraph, and an answer with reasons."""
