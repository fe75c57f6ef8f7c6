"""Autogenerate reads the facts about all tables of a schema at once, and keeps them for the run.

A name or a text that information_schema spells ambiguously is read from its own table, as an operation reads it.
"""

from __future__ import annotations

from alembic.autogenerate.api import AutogenContext

from ..databases import supported
from ..databases.mysql.literals import strings
from ..databases.mysql.shape import ColumnShape
from ..databases.mysql.survey import Survey, survey
from .databases import ColumnStates, Place

__all__ = ["column_states", "survey_of"]


def survey_of(context: AutogenContext, table: str, schema: str | None) -> Survey | None:
    """The facts about all tables in the schema of *table*; None where its facts have to be read alone."""
    connection = context.connection
    database = None if connection is None else supported(connection.dialect)
    if connection is None or database is None or not database.catalogue.is_scriptable:
        return None
    schema = (connection.get_execution_options().get("schema_translate_map") or {}).get(schema, schema)
    # The inspector lives as long as the run of autogenerate, and has its own facts in the same cache.
    cache, key = context.inspector.info_cache, ("sqlalchemy_fsm_mysql", schema)
    if key not in cache:
        cache[key] = survey(connection, schema)
    facts: Survey = cache[key]
    return facts if table in facts.columns else None


def column_states(place: Place, facts: Survey | None) -> ColumnStates | None:
    """The values that the column at *place* allows, from the *facts* where it is unambiguous."""
    shape = None if facts is None else facts.columns[place.table.name].get(place.column.name)
    if facts is None or shape is None or shape.is_generated or "\\" in f"{shape.type}{shape.default}":
        return place.column_states()
    if shape.kind == "enum":
        return ColumnStates("enum", strings(shape.type), shape.default, _is_exact(shape, "_bin"), shape.is_nullable)
    if shape.kind != "varchar":
        return place.column_states()
    checks = [facts.checked(place.table.name, name) for name in place.checks]
    if None in checks:
        return place.column_states()
    states = next(filter(None, checks), ())
    is_exact = _is_exact(shape, "nopad_bin", "0900_bin")
    return ColumnStates("varchar" if states else "text", states, shape.default, is_exact, shape.is_nullable)


def _is_exact(shape: ColumnShape, *endings: str) -> bool:
    return str(shape.collation) == "binary" or str(shape.collation).endswith(endings)
