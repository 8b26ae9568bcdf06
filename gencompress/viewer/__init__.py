"""A scene in the browser: one offline page, a folder, or a local server."""
