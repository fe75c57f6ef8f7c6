"""The project's env.py. The one line that matters is the import."""

from alembic import context

import sqlalchemy_fsm_mysql.alembic  # noqa: F401 - enables it all

config = context.config

if context.is_offline_mode():
    context.configure(
        url=config.get_main_option("sqlalchemy.url"),
        target_metadata=config.attributes.get("metadata"),
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    with config.attributes["engine"].connect() as connection:
        context.configure(connection=connection, target_metadata=config.attributes.get("metadata"))
        with context.begin_transaction():
            context.run_migrations()
