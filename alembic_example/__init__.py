"""A table whose machine changes from release to release, under a writer that never stops: see README.md."""
