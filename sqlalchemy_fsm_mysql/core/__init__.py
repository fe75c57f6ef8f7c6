"""Moves rows on a Connection. Knows no Session and no instance."""
