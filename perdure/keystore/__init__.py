"""An erasable store for keys on a raw region of an array (docs/spec.md, section 20)."""
