"""`python -m node` is `sensor-node`."""

from node.cli.main import main

raise SystemExit(main())
