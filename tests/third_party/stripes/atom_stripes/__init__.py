"""A matcher, an image source and an exporter for atom_plugin, in a distribution of their own."""
