"""Pictures of graphs: where nodes go (``*_layout``), the ink (``canvas``), and the files (``pictures``)."""

from recsys_vae.graphical.drawing.pictures import Plate, draw

__all__ = ["Plate", "draw"]
