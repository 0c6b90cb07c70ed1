"""Disk images: made from the same inputs they are the same bytes, so anyone can recompute what hardware measures."""
