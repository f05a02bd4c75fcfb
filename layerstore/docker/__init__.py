"""A Docker host: its data root, images, layers and daemon. The one place that knows its layout."""
