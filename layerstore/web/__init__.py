"""The store in a browser, by Datasette: the only package that imports it. `layerstore.cli.serve` starts it."""
