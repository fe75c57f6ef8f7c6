"""The state column in libraries that read column types: it is a choice there, and is dumped and loaded.

`Note` has states of an Enum class, `Text` has strings. Each library is the real one.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine, MetaData, String
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import sqlalchemy_fsm_mysql
from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, StateType


class Status(enum.Enum):
    NEW = "new"
    PAID = "paid"


class Base(DeclarativeBase):
    pass


class Note(Stateful, Base):
    __tablename__ = "eco_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None] = mapped_column(String(20))
    state: Mapped[Status] = StateMachineColumn(
        Machine(initial=Status.NEW, states=Status, events=[Event("Pay", {Status.NEW: Status.PAID})])
    )


class Text(Stateful, Base):
    __tablename__ = "eco_texts"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None] = mapped_column(String(20))
    state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))


@pytest.fixture
def rows(engine: Engine, tables: Callable[[MetaData], None]) -> Engine:
    """A row in each table that is paid."""
    tables(Base.metadata)
    with Session(engine) as session:
        session.add_all([Note(id=2, state=Status.PAID), Text(id=2, state="paid")])
        session.commit()
    return engine


def found(engine: Engine, model: Any) -> list[tuple[Any, Any]]:
    with Session(engine) as session:
        return [(row.note, row.state) for row in session.query(model).order_by(model.id)]


def test_the_type_is_known_for_what_it_is() -> None:
    note, text = Note.__table__.c.state.type, Text.__table__.c.state.type

    assert (note.enums, note.enum_class, note.python_type) == (["NEW", "PAID"], Status, Status)
    assert (text.enums, text.enum_class, text.python_type) == (["new", "paid"], None, str)
    assert isinstance(note.impl, EnumType)
    assert isinstance(text.impl, EnumType)


def test_a_machine_with_some_members_of_an_enum_offers_these() -> None:
    class More(enum.Enum):
        NEW = "new"
        PAID = "paid"
        OTHER = "other"

    type_ = StateType(Machine(initial=More.NEW, events=[Event("Pay", {More.NEW: More.PAID})]))

    assert (type_.enums, type_.enum_class) == (["new", "paid"], None)


@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_a_type_is_written_out_and_made_of_that_again(storage: Any) -> None:
    type_ = StateType(Note.state.type.machine, storage=storage)
    again = eval(repr(type_), {"StateType": StateType})  # noqa: S307 - the repr of our own type

    assert repr(type_).startswith("StateType.of('new', 'paid'")
    assert repr(again) == repr(type_)
    assert again.stored_states == type_.stored_states


def test_alembic_writes_the_type_without_our_module() -> None:
    """autogenerate's usual rendering of a foreign type: its module and its repr."""
    pytest.importorskip("alembic")
    from alembic.autogenerate.api import AutogenContext
    from alembic.autogenerate.render import _repr_type
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(dialect_name="mysql", opts={"user_module_prefix": None})
    text = _repr_type(Note.__table__.c.state.type, AutogenContext(context, Base.metadata))

    assert text == "sqlalchemy_fsm_mysql.orm.column.StateType.of('new', 'paid')"
    written = eval(text, {"sqlalchemy_fsm_mysql": sqlalchemy_fsm_mysql})  # noqa: S307 - of our own type
    assert written.stored_states == ("new", "paid")


def test_the_name_of_a_member_is_taken_as_the_member() -> None:
    """sqladmin and Flask-Admin give the names that .enums has."""
    assert Note(state="PAID").state is Status.PAID
    assert Note(state="paid").state is Status.PAID
    with pytest.raises(ValueError, match="not a state of this machine"):
        Note(state="LOST")
    with pytest.raises(ValueError, match="not a state of this machine"):
        Text(state="PAID")


@pytest.mark.parametrize("model, shown", [(Note, "PAID"), (Text, "paid")])
def test_marshmallow_dumps_loads_and_validates(rows: Engine, model: Any, shown: str) -> None:
    schemas = pytest.importorskip("marshmallow_sqlalchemy")
    meta = type("Meta", (), {"model": model, "load_instance": True})
    schema = type("Schema", (schemas.SQLAlchemyAutoSchema,), {"Meta": meta})()

    with Session(rows) as session:
        data = schema.dump(session.get(model, 2))
        assert data == {"id": 2, "note": None, "state": shown}
        assert schema.load(data, session=session).state == found(rows, model)[0][1]
        assert schema.load({**data, "id": 9}, session=session).state == found(rows, model)[0][1]
        assert "Must be one of" in schema.validate({"state": "lost"}, session=session)["state"][0]


def test_polyfactory_draws_a_state() -> None:
    factories = pytest.importorskip("polyfactory.factories.sqlalchemy_factory")

    class NoteFactory(factories.SQLAlchemyFactory[Note]): ...

    class TextFactory(factories.SQLAlchemyFactory[Text]):
        state = (
            factories.Use(NoteFactory.__random__.choice, Text.state.type.enums) if hasattr(factories, "Use") else "new"
        )

    assert {NoteFactory.build().state for _ in range(20)} == set(Status)
    assert TextFactory.build().state in ("new", "paid")


def test_sqladmin_offers_a_choice_for_an_enum_and_saves_it(rows: Engine) -> None:
    pytest.importorskip("sqladmin")
    from sqladmin import Admin, ModelView
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    class NoteView(ModelView, model=Note):
        pass

    class TextView(ModelView, model=Text):
        pass

    app = Starlette()
    admin = Admin(app, session_maker=sessionmaker(rows))
    admin.add_view(NoteView)
    admin.add_view(TextView)
    client = TestClient(app, follow_redirects=False)

    page = client.get("/admin/note/edit/2").text
    choice = re.search(r'<select[^>]*name="state".*?</select>', page, re.DOTALL)
    assert choice
    assert re.findall(r"<option (selected)?\s*value=\"(\w+)\"", choice[0]) == [("", "NEW"), ("selected", "PAID")]
    assert client.post("/admin/note/edit/2", data={"note": "x", "state": "PAID"}).status_code == 302
    assert client.post("/admin/note/edit/2", data={"note": "y", "state": "NEW"}).status_code == 400
    assert client.post("/admin/note/create", data={"note": "z", "state": "PAID"}).status_code == 302
    assert found(rows, Note) == [("x", Status.PAID), ("z", Status.PAID)]
    assert client.post("/admin/text/edit/2", data={"note": "x", "state": "paid"}).status_code == 302
    assert found(rows, Text) == [("x", "paid")]


def test_sqladmin_offers_a_choice_for_strings_when_asked(rows: Engine) -> None:
    """As docs/guide/admin.md says."""
    pytest.importorskip("sqladmin")
    wtforms = pytest.importorskip("wtforms")
    from sqladmin import Admin, ModelView
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    class TextView(ModelView, model=Text):
        form_overrides: ClassVar = {"state": wtforms.SelectField}
        form_args: ClassVar = {"state": {"choices": Text.state.type.enums}}

    app = Starlette()
    admin = Admin(app, session_maker=sessionmaker(rows))
    admin.add_view(TextView)
    client = TestClient(app, follow_redirects=False)

    page = client.get("/admin/text/edit/2").text
    assert re.findall(r"<option (selected)?\s*value=\"(\w+)\"", page) == [("", "new"), ("selected", "paid")]
    assert client.post("/admin/text/edit/2", data={"note": "x", "state": "paid"}).status_code == 302
    assert client.post("/admin/text/create", data={"note": "z", "state": "new"}).status_code == 302
    assert client.post("/admin/text/create", data={"note": "z", "state": "lost"}).status_code == 400
    assert found(rows, Text) == [("x", "paid"), ("z", "new")]


@pytest.mark.filterwarnings("ignore:No secret_key")
def test_starlette_admin_offers_a_choice_and_saves_it(rows: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette_admin")
    monkeypatch.setattr("starlette_admin.contrib.sqla.converters._EXTERNAL_CONVERTERS", {})
    from starlette.applications import Starlette
    from starlette.testclient import TestClient
    from starlette_admin.contrib.sqla import Admin, ModelView
    from starlette_admin.contrib.sqla.converters import register_converter
    from starlette_admin.fields import EnumField

    assert [type(field).__name__ for field in ModelView(Note).fields if field.name == "state"] == ["EnumField"]
    # A converter stays registered for the whole run, so the second target finds that of the first.
    (kind,) = [type(field).__name__ for field in ModelView(Text).fields if field.name == "state"]
    assert kind in ("StringField", "EnumField")

    @register_converter(StateType)
    def choice(*_: Any, **options: Any) -> EnumField:
        return EnumField(options["name"], choices=options["type"].enums)

    app = Starlette()
    admin = Admin(rows, secret_key="x" * 40)
    admin.add_view(ModelView(Note))
    admin.add_view(ModelView(Text))
    admin.mount_to(app)
    client = TestClient(app, follow_redirects=False)

    for name, value in (("note", "paid"), ("text", "paid")):
        page = client.get(f"/admin/{name}/edit?pk=2").text
        assert re.search(r'<select[^>]*name="state"', page)
        token = re.search(r'name="csrftoken" value="([^"]*)"', page)
        assert token
        data = {"note": "x", "state": value, "csrftoken": token[1]}
        assert client.post(f"/admin/{name}/edit?pk=2", data=data).status_code == 303
    assert found(rows, Note) == [("x", Status.PAID)]
    assert found(rows, Text) == [("x", "paid")]


def test_strawberry_has_the_enum_of_the_annotation(rows: Engine) -> None:
    """strawberry-sqlalchemy-mapper knows no TypeDecorator, so the field is annotated."""
    strawberry = pytest.importorskip("strawberry")
    mapper_module = pytest.importorskip("strawberry_sqlalchemy_mapper")
    mapper = mapper_module.StrawberrySQLAlchemyMapper()
    status = strawberry.enum(Status)

    NoteType = mapper.type(Note)(type("NoteType", (), {"__annotations__": {"state": status}, "__exclude__": ["state"]}))
    mapper.finalize()

    def note() -> Any:
        with Session(rows, expire_on_commit=False) as session:
            return session.get(Note, 2)

    note.__annotations__["return"] = NoteType
    query = strawberry.type(type("Query", (), {"note": strawberry.field(resolver=note)}))
    schema = strawberry.Schema(query)

    assert "enum Status {" in str(schema)
    assert schema.execute_sync("{ note { state } }").data == {"note": {"state": "PAID"}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flask-Admin: its own, and about WTForms
def test_flask_admin_offers_a_choice_and_filters(rows: Engine) -> None:
    flask = pytest.importorskip("flask")
    try:
        from flask_admin import Admin
        from flask_admin.contrib.sqla import ModelView
        from flask_admin.contrib.sqla.filters import FilterConverter
        from flask_admin.contrib.sqla.form import AdminModelConverter
        from flask_admin.model.filters import convert
        from flask_admin.model.form import converts
    except (ImportError, AttributeError) as error:  # Flask-Admin 2.2 does not import on SQLAlchemy 2.1
        pytest.skip(f"Flask-Admin does not import on this SQLAlchemy: {error}")

    class Converter(AdminModelConverter):
        @converts("StateType")
        def state(self, **options: Any) -> Any:
            return self.convert_enum(**options)

    class Filters(FilterConverter):
        @convert("statetype", "enumstatetype")
        def state(self, *arguments: Any, **options: Any) -> Any:
            return self.conv_enum(*arguments, **options)

    class StateView(ModelView):
        model_form_converter = Converter
        filter_converter = Filters()
        column_filters = ("state",)

    app = flask.Flask("admin")
    app.secret_key = "x"  # noqa: S105 - of a test
    app.config["WTF_CSRF_ENABLED"] = False
    admin = Admin(app)
    with Session(rows) as session:
        admin.add_view(StateView(Note, session, endpoint="note"))
        admin.add_view(StateView(Text, session, endpoint="text"))
        client = app.test_client()
        for name, shown in (("note", "PAID"), ("text", "paid")):
            page = client.get(f"/admin/{name}/edit/?id=2").text
            choice = re.search(r'<select[^>]*name="state".*?</select>', page, re.DOTALL)
            assert choice
            assert re.search(rf'selected[^>]*value="{shown}"', choice[0])
            client.post(f"/admin/{name}/edit/?id=2", data={"note": "x", "state": shown})
    assert found(rows, Note) == [("x", Status.PAID)]
    assert found(rows, Text) == [("x", "paid")]
