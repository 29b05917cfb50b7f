"""`python -m node` is `sensor-node`."""

from node.cli import main

raise SystemExit(main())
