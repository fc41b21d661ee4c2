"""What to choose and how to learn it: numbers in, choices out."""
