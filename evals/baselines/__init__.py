"""Methods to compare with: each a `Method` in a file of its own."""
