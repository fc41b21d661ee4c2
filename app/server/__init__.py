"""`promptailor serve`: the web application, its page, and the log of answers and feedback that policies learn from."""
