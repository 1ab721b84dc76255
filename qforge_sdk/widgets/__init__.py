"""Views over the accessors, for notebooks."""
