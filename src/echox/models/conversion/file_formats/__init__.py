"""Files of other programs, read without them and without running anything in them."""
