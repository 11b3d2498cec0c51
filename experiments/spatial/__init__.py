"""Table 13 and figures 16 and 17 of the paper in small: what spatial alignment does to the layers of an encoder."""
