"""Updates from afar: a signed bundle is fetched or received in pieces, and staged for root.

`Updater` owns it, on the loop's thread; a thread of its own fetches and hashes. Only a node that
has a key of a publisher imports it. What is staged here, `deploy/update` verifies, tries and
reports on (deploy/update_parts/staged.py). `bundle_file` and `sender` are the other end, that of
the operator: `sensor-node push`.
"""
