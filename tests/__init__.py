"""Tests; a package, so that its modules are found before those of other distributions that install a `tests` too."""
