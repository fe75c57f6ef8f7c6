"""Declarations on models, and the part of a Session in a fire: instances, journal, hooks, units of work."""
