"""Trees that are trained anew beside the stream, by LightGBM, and scored by a walk of our own."""
