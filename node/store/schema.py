"""The tables, for SQLite and PostgreSQL, as the steps by which a database comes to them. Pure.

    stream     one row for each numbered sequence of a node
    span       the numbers of a stream that are stored, as few rows as there are gaps
    lost       numbers that the node does not have either
    channel    one row for each value of a sensor
    reading    the values, a row each
    event      numbered items that are not values, as JSON
    rejected   messages that could not be stored, as they came
    readings, gaps: views for people and for Grafana

The spans, not a unique index, keep a reading from being stored twice: they are written in the same
transaction, they also say what is missing, and a hypertable of TimescaleDB cannot have an index
that is unique without the time.
"""

from __future__ import annotations

__all__ = ["NEWEST", "migrations"]

_TABLES = """
CREATE TABLE stream (
  id {identity},
  node text NOT NULL,
  stream text NOT NULL,
  since {time} NOT NULL,
  asked_at {time},
  UNIQUE (node, stream)
);
CREATE TABLE span (
  stream_id bigint NOT NULL REFERENCES stream,
  first_seq bigint NOT NULL,
  last_seq bigint NOT NULL,
  PRIMARY KEY (stream_id, first_seq)
);
CREATE TABLE lost (
  stream_id bigint NOT NULL REFERENCES stream,
  first_seq bigint NOT NULL,
  last_seq bigint NOT NULL,
  PRIMARY KEY (stream_id, first_seq, last_seq)
);
CREATE TABLE channel (
  id {identity},
  node text NOT NULL,
  sensor text NOT NULL,
  channel text NOT NULL,
  UNIQUE (node, sensor, channel)
);
CREATE TABLE reading (
  time {time} NOT NULL,
  channel_id bigint NOT NULL REFERENCES channel,
  value double precision NOT NULL,
  stream_id bigint NOT NULL REFERENCES stream,
  seq bigint NOT NULL,
  synced boolean NOT NULL,
  simulated boolean NOT NULL
);
CREATE INDEX reading_of_channel ON reading (channel_id, time);
CREATE TABLE event (
  time {time} NOT NULL,
  stream_id bigint NOT NULL REFERENCES stream,
  seq bigint NOT NULL,
  sensor text NOT NULL,
  synced boolean NOT NULL,
  content {json} NOT NULL
);
CREATE INDEX event_at ON event (time);
CREATE TABLE rejected (
  id {identity},
  received {time} NOT NULL,
  topic text NOT NULL,
  payload {bytes} NOT NULL,
  problem text NOT NULL
);
CREATE VIEW readings AS
  SELECT r.time, c.node, c.sensor, c.channel, r.value, r.synced, r.simulated, s.stream, r.seq
  FROM reading r JOIN channel c ON c.id = r.channel_id JOIN stream s ON s.id = r.stream_id;
CREATE VIEW gaps AS
  SELECT s.node, s.stream, g.last_seq + 1 AS first_seq, g.next_seq - 1 AS last_seq,
    g.next_seq - g.last_seq - 1 AS readings,
    EXISTS (
      SELECT 1 FROM lost l WHERE l.stream_id = g.stream_id
      AND l.first_seq <= g.last_seq + 1 AND l.last_seq >= g.next_seq - 1
    ) AS lost,
    s.id AS stream_id
  FROM (
    SELECT stream_id, last_seq,
      lead(first_seq) OVER (PARTITION BY stream_id ORDER BY first_seq) AS next_seq
    FROM span
  ) g JOIN stream s ON s.id = g.stream_id
  WHERE g.next_seq > g.last_seq + 1;
"""

_SQLITE = {
    "identity": "integer PRIMARY KEY",
    "time": "text",  # ISO 8601 in UTC with milliseconds, which sorts as it should
    "json": "text",
    "bytes": "blob",
}
_POSTGRES = {
    "identity": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "time": "timestamptz",
    "json": "jsonb",
    "bytes": "bytea",
}

_STEPS = (_TABLES,)
"""Step n brings a database of version n to n + 1. A step that was released never changes."""

NEWEST = len(_STEPS)


def migrations(version: int, *, postgres: bool) -> list[str]:
    """Return the statements that bring a database from `version` to the newest."""
    words = _POSTGRES if postgres else _SQLITE
    whole = "".join(step.format(**words) for step in _STEPS[version:])
    return [statement for part in whole.split(";\n") if (statement := part.strip())]
