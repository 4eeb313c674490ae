"""Stages that turn recordings into what others learn: where words end, and units."""
