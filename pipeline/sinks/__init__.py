"""Where documents go: any callable `(name, doc)` is a sink."""
