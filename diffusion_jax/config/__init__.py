"""From a config to checked objects: components by name, component text, the sections of an experiment."""
