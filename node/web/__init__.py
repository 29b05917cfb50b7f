"""The status page: a process of its own that reads the log, and never writes it.

    outbox.db ──► watcher ──► summary ──► buckets (per channel: the last hour, and two days)
                     │
                     ▼
                   Known ──► page, plot ──► HTML with SVG ┐
                       ├───► api ─────────► JSON          ├─► application (WSGI) ─► server
                       └───► metrics ─────► Prometheus    │        (routes, login)   (waitress)
    outbox.db ──► export ──► CSV ─────────────────────────┘

`log` opens the log, `requests` reads what is asked for, `login` lets in, `mdns` makes it known.
`settings` reads what the page needs of the configuration, and none of its secrets but its own.
`static/` has the style sheet and the script. README.md beside this file documents what is served,
and has the measurements.

Nothing here is imported by `sensor-node run`.
"""
