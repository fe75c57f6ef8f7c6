"""A machine as SQL: pure builders of expressions, without a session and without a server."""
