"""The feedback store's schema, version by version; `FeedbackStore` brings a database up to date when it opens it."""
