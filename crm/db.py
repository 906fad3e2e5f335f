"""The database: base class, column types, one unit of work. No domain knowledge."""

from __future__ import annotations

import contextlib
import contextvars
import enum
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    DateTime,
    Dialect,
    Engine,
    Enum,
    Integer,
    MetaData,
    String,
    Table,
    case,
    cast,
    create_engine,
    event,
    func,
    insert,
    literal,
)
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import DeclarativeBase, mapped_column, registry
from sqlalchemy.types import TypeDecorator

T = TypeVar("T")

# --- values ---------------------------------------------------------------------------------------------------------

CENT = Decimal("0.01")
MAX_AMOUNT = Decimal("100000000.00")  # of one sum entered by a person or a file


def amount(value: Decimal | int | str) -> Decimal:
    """`value` as an amount of two decimals, rounded half up. A float is refused: it has lost kopecks already."""
    if isinstance(value, float):
        raise TypeError("amounts are Decimal, never float")
    return Decimal(value).quantize(CENT, rounding=ROUND_HALF_UP)


class LabelEnum(str, enum.Enum):  # noqa: UP042 - StrEnum cannot carry a label
    """Enum stored by value and shown by label: `PENDING = "pending", lazy_gettext("Awaiting payment")`."""

    label: Any

    def __new__(cls, value: str, label: Any) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member

    def __str__(self) -> str:
        return str(self.value)


# --- column types ---------------------------------------------------------------------------------------------------


class Money(TypeDecorator[Decimal]):
    """Decimal with two places in Python, integer hundredths in the database. Lessons and bonuses use it too."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if isinstance(value, float):
            raise TypeError("amounts are Decimal, never float")
        minor = Decimal(value) * 100
        if minor != minor.to_integral_value():
            raise ValueError(f"{value} has more than two decimals; round it with amount() first")
        return int(minor)

    def result_processor(self, _dialect: Dialect, _coltype: Any) -> Callable[[Any], Decimal | None]:
        """In place of process_result_value(), which costs three calls more: pages read these by the thousand."""
        return lambda value: None if value is None else CENT * int(value)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes only, kept and returned in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime: pass an aware one")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], datetime | None]:
        """As Money's."""
        read: Callable[[Any], Any] | None = self.impl_instance.result_processor(dialect, coltype)
        if read is not None:  # SQLite keeps them as text without a zone
            return lambda value: None if value is None else read(value).replace(tzinfo=UTC)
        return lambda value: None if value is None else value.astimezone(UTC)


class Phone(TypeDecorator[str]):
    """E.164 text (`+79181590830`); crm/phones.py parses what people type."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if not value:
            return None
        if not re.fullmatch(r"\+\d{7,15}", value):
            raise ValueError(f"{value!r} is not an E.164 phone number")
        return value


def label_enum(cls: type[LabelEnum], *, name: str | None = None) -> Enum:
    """Column type of a LabelEnum: text with a CHECK, so that the database refuses what the code does not know.

    name: of the CHECK, where a table has two columns of one kind.
    """
    return Enum(
        cls,
        name=name or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower(),
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda e: [m.value for m in e],
    )


BigId = BigInteger().with_variant(Integer, "sqlite")
PrimaryKey = Annotated[int, mapped_column(BigId, primary_key=True)]
Text40 = Annotated[str, mapped_column(String(40))]
Text200 = Annotated[str, mapped_column(String(200))]


# --- base class ------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    registry = registry(type_annotation_map={Decimal: Money, datetime: UtcDateTime, dict[str, Any]: JSON})
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base, session_options={"autoflush": True})

if TYPE_CHECKING:

    class Model(Base):
        """What every table inherits."""

        __abstract__ = True

else:
    Model = db.Model


def read_only(model: type[T]) -> type[T]:
    """Class decorator of a model mapped onto a join: what the session would write for its rows is refused."""

    def refuse(_mapper: Any, _connection: Any, row: Any) -> None:
        raise TypeError(f"{type(row).__name__} is only to be read")

    for moment in ("before_insert", "before_update", "before_delete"):
        event.listen(model, moment, refuse)
    return model


# Search indexes differ between the databases: migration 0004 makes them, and no model names them.
_UNMODELLED = re.compile(r"(ix_)?client_search(_\w+)?")


def is_modelled(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether something found in a database stands in the models too (Alembic's include_name)."""
    return kind not in {"table", "index"} or not _UNMODELLED.fullmatch(name or "")


# --- unit of work ---------------------------------------------------------------------------------------------------

# SQLite lets a transaction that began by reading fail when it turns to writing. A request that only reads
# clears this; everything else takes the write lock at BEGIN and waits its turn.
_writes: contextvars.ContextVar[bool] = contextvars.ContextVar("writes", default=True)


def set_read_only(read_only: bool) -> None:
    """Tell SQLite whether transactions begun from here on will write (they wait for each other if so)."""
    _writes.set(not read_only)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Transactions begun in this block only read: on SQLite they wait for nobody."""
    token = _writes.set(False)
    try:
        yield
    finally:
        _writes.reset(token)


@contextlib.contextmanager
def transaction() -> Iterator[None]:
    """Commit at the end or roll back; an inner one joins the outer. Then run what after_commit() was given."""
    session = db.session()
    info = session.info
    if info.get("depth"):
        yield
        return
    if not _writes.get():  # a reading request that writes after all: begin again with the write lock
        session.commit()
        _writes.set(True)
    info["depth"] = 1
    info["after_commit"] = []
    try:
        yield
        session.commit()
    except BaseException:
        session.rollback()
        raise
    else:
        effects = info["after_commit"]
    finally:
        info["depth"] = 0
        info["after_commit"] = []
    for effect in effects:
        effect()


def is_in_transaction() -> bool:
    """Whether a transaction() is open, of which an inner one would be a part."""
    return bool(db.session().info.get("depth"))


def end_reading() -> None:
    """Give back what reads have taken (a snapshot, SQLite's write lock) before waiting for somebody outside."""
    session = db.session()
    if is_in_transaction():
        raise RuntimeError("end_reading() inside a transaction(): nobody outside is asked from there")
    if session.in_transaction():
        session.commit()


def give_way() -> None:
    """Between the many small transactions of a long job: SQLite's write lock has no queue, so others who wait for it
    get their turn only while nobody holds it.
    """
    if db.engine.dialect.name == "sqlite":
        time.sleep(0.005)


def after_commit(effect: Callable[[], None]) -> None:
    """Run `effect` once the current transaction() has committed; it must not fail the caller. Dropped on rollback."""
    info = db.session().info
    if not info.get("depth"):
        raise RuntimeError("after_commit() needs a transaction()")
    info["after_commit"].append(effect)


def patched(column: Any, patch: Any) -> Any:
    """SQL: the object in a JSON column with some of its keys set, those given as None taken away; the others stay.

    patch: {key: scalar or list}, or a bind parameter of it. Of two objects so made, equal ones compare as equal.
    """
    new = literal(patch, column.type) if isinstance(patch, dict) else patch
    if db.engine.dialect.name == "sqlite":
        return func.json_patch(column, new, type_=column.type)
    return func.jsonb_strip_nulls(column.op("||")(new), type_=column.type)


# --- days ------------------------------------------------------------------------------------------------------------


def day_of(column: Any, begin: datetime, end: datetime, zone: ZoneInfo) -> Any:
    """SQL of the calendar day of an instant in `zone`. SQLite knows no zones: there the offset is written out, one for
    each stretch of the period between two changes of the clock.
    """
    if db.engine.dialect.name != "sqlite":
        return cast(func.timezone(str(zone), column), Date)
    stretches = [(until, _shifted(column, offset)) for until, offset in _offsets(begin, end, zone)]
    *earlier, (_end, latest) = stretches
    return case(*((column < until, day) for until, day in earlier), else_=latest) if earlier else latest


def _shifted(column: Any, offset: timedelta) -> Any:
    seconds = func.substr(column, 1, 19)  # SQLite would round the last half a millisecond up into the next day
    return func.date(seconds, f"{int(offset.total_seconds()):+d} seconds", type_=Date)


def _offsets(begin: datetime, end: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, timedelta]]:
    """(instant it holds until, offset from UTC) of each stretch of a period, to the minute."""
    at = begin
    offset = at.astimezone(zone).utcoffset() or timedelta()
    while at < end:
        following = min(at + timedelta(days=1), end)
        then = following.astimezone(zone).utcoffset() or timedelta()
        if then != offset:
            low, high = at, following
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
            yield high.replace(second=0, microsecond=0), offset
            offset = then
        at = following
    yield end, offset


# --- many rows --------------------------------------------------------------------------------------------------------

# Below this a plain INSERT is as fast.
_FEW = 20


def insert_rows(model: type[Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write many rows in the current transaction: COPY on PostgreSQL, straight to the driver on SQLite; several times
    faster than INSERT by SQLAlchemy.

    Every row has the same columns; defaults are the caller's affair, and neither the row scope nor the audit sees it.
    """
    if not rows:
        return
    table: Table = model.__table__
    connection = db.session.connection()
    if len(rows) < _FEW:
        connection.execute(insert(table), rows)
        return
    dialect, names = connection.dialect, list(rows[0])
    # Values are made as the column types make them for an INSERT, then handed to the driver as they are.
    bind: list[Callable[[Any], Any] | None] = [
        table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names
    ]
    values = ([make(row[name]) if make else row[name] for name, make in zip(names, bind, strict=True)] for row in rows)
    quote = dialect.identifier_preparer.quote
    columns = ", ".join(quote(name) for name in names)
    cursor: Any = connection.connection.cursor()
    with contextlib.closing(cursor):
        if dialect.name == "postgresql":
            with cursor.copy(f"COPY {quote(table.name)} ({columns}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
        else:
            marks = ", ".join("?" for _ in names)
            cursor.executemany(f"INSERT INTO {quote(table.name)} ({columns}) VALUES ({marks})", values)  # noqa: S608


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _local_day(instant: str, time_zone: str) -> str:
    """The day of a stored instant in a time zone; PostgreSQL does that by itself."""
    return datetime.fromisoformat(instant).replace(tzinfo=UTC).astimezone(ZoneInfo(time_zone)).date().isoformat()


def engine_options(url: str) -> dict[str, Any]:
    """How Flask-SQLAlchemy makes the engine."""
    # Rows hold personal data: errors and logs name the statement, never its values.
    options: dict[str, Any] = {"hide_parameters": True}
    if url.startswith("postgresql"):
        # A plan is made for the values asked for: one text is in every tenth row, another in none. Compiling a plan
        # takes longer than any page.
        options["connect_args"] = {"options": "-c plan_cache_mode=force_custom_plan -c jit=off"}
    return options


def configure_engine(engine: Engine) -> None:
    """What SQLAlchemy has no option for."""
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    else:
        _ping_idle_connections(engine)


# Seconds a pooled connection may lie unused before it is asked whether it still stands.
MAX_IDLE = 1.0


def _ping_idle_connections(engine: Engine) -> None:
    """A server that has restarted is noticed before anybody's work depends on it. SQLAlchemy's pool_pre_ping asks at
    every checkout, a tenth of the time of a small transaction.
    """

    @event.listens_for(engine, "checkin")
    def _checkin(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _checkout(connection: Any, record: Any, _proxy: Any) -> None:
        since = record.info.pop("idle_since", None)
        if since is None or time.monotonic() - since < MAX_IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


def _configure_sqlite(engine: Engine) -> None:
    """Foreign keys on, WAL, lower() for every alphabet, local_day(), honest transactions (the driver's own begin comes
    too late).
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        # SQLite's own knows the case of ASCII only: a search for «анна» would not find «Анна».
        connection.create_function("lower", 1, _lower, deterministic=True)
        connection.create_function("local_day", 2, _local_day)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes.get() else "BEGIN")


# --- single statements -----------------------------------------------------------------------------------------------


def statement_engine() -> Engine:
    """For statements that are transactions by themselves and concern one row by a unique key: past the session.

    On PostgreSQL over connections of their own. Neither BEGIN nor COMMIT is sent, two of three times that the server is
    waited for; and the plan is kept, since it is always the same, unlike those of grids, and making it may take several
    times as long as running it.
    """
    engine = db.engine
    if engine.name != "postgresql":
        return engine
    if (known := _engines.get(engine)) is not None:
        return known
    with _lock:
        if engine not in _engines:
            connect = {"options": "-c plan_cache_mode=force_generic_plan -c jit=off", "prepare_threshold": 1}
            own = create_engine(
                engine.url,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
                pool_size=4,
                pool_reset_on_return=None,  # nothing is left to roll back
                connect_args=connect,
            )
            configure_engine(own)
            event.listen(engine, "engine_disposed", lambda _engine: own.dispose())
            _engines[engine] = own
        return _engines[engine]


_engines: WeakKeyDictionary[Engine, Engine] = WeakKeyDictionary()
_lock = Lock()
