"""Programs that use Perdure, to read and to try."""
