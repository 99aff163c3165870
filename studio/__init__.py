"""D3PO Studio: teach an image model your own taste by clicking."""

__version__ = "0.1.0"
