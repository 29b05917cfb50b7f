"""The status page, and the page of all nodes: separate processes from the node.

The status page reads the log, and never writes it. `read_now` asks the node by the broker:

    outbox.db ──► watcher ──► summary ──► buckets (per channel: the last hour, and two days)
                     │
                     ▼
                   Known ──► page, plot ──► HTML with SVG ┐
                       ├───► api ─────────► JSON          ├─► application (WSGI) ─► server
                       └───► metrics ─────► Prometheus    │        (routes, login)   (waitress)
    outbox.db ──► export ──► CSV ─────────────────────────┘                          │
    broker ◄──────────────────────── read_now ◄─────────── POST /read ◄──────────────┘

The page of all nodes (`web --broker`) shows what a subscriber hears:

    broker ──► fleet_watcher ──► fleet (on node.watch.model) ──► fleet_page ──► HTML ┐
               (a thread)                     └────────────────► api ─────────► JSON ├─► fleet_
                                                                                     ┘ application

`site` has what both applications share, `document` the frame of all pages. `requests` parses
requests, `login` checks passwords, `mdns` announces the page. `settings` reads the page's part of
the configuration, and only the page's own secret. `static/` has the style sheet and the script.
README.md in this folder documents the answers, and has the measurements.

`sensor-node run` does not import this package.
"""
